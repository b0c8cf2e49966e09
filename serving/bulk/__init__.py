"""Bulk work: many pictures, wherever they lie -> one Parquet file of answers, computed on Ray Data.

`sources` finds the pictures, `reading` fetches and answers them, `parts` keeps the answers, `running` gives them
to Ray, and `__main__` is the command. There is no service, no queue and no deadline here.
"""
