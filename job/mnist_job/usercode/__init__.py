"""The user's code: its files by value, the functions in it that settings name, and a process of its own to run them in.

`data`, `models`, `training` and `evaluation` call the user's functions by it; the driver only reads the files. Read
`files.py` first, then `function.py`; `apart.py` keeps the user's imports, such as TensorFlow, out of the driver.
"""
