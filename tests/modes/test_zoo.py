"""The table of published checkpoints."""

from pathlib import Path

from danet_jax.modes import zoo as mode
from danet_jax.weights.zoo import ZOO


def test_the_table_contains_every_hash_and_url(capsys):
    assert mode.run(None, Path("unused"), []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 120
    for entry in ZOO:
        (row,) = (line for line in lines if line.startswith(f"{entry.name} "))
        assert entry.sha256 in row.split()
    directory, urls = "", []
    for line in lines[lines.index("") + 2 : -2]:
        assert len(line) <= 120
        if line.startswith("https://"):
            directory = line
        else:
            urls.append(directory + line.strip())
    assert urls == [entry.url for entry in ZOO]
