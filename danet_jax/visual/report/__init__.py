"""The report: one page about a run, or about several runs for comparison."""
