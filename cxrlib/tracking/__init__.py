"""What became of all the runs.

    folders.py  a run folder, read
    table.py    one line per run
    compare.py  settings that differ, scores side by side, curves
    events.py   TensorBoard's event files, made from log.jsonl
"""
