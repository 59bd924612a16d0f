"""`python -m mnist_job` is `mnist-job`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, whose files are no modules of this program
    from mnist_job.cli.main import main

    raise SystemExit(main())
