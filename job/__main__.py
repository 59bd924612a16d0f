"""`python -m job` is `mnist-job`."""

from job.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
