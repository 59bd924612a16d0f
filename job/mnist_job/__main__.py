"""Run `mnist-job` as `python -m mnist_job`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder: its files must not hide this program's imports
    from mnist_job.cli.main import main

    raise SystemExit(main())
