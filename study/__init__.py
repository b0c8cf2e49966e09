"""The study of the networks' claims: a table of experiments, their records, and verdicts decided from the numbers.

`experiments` says what is run, `measure` and its probes run it, `records` keeps it as JSON, `claims` judges it by the
rules in `verdicts`, `costs` sets whole trainings beside each other, `report` and `figures` write it down. The command
is `python -m study`.
"""
