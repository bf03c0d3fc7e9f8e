"""Class tables of the published datasets as data: names, the publisher's ids and colours."""
