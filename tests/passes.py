"""One pass over data in the process of a test, as the loop does it."""

from mnist_job.training.batches import Batches
from mnist_job.training.passes import Pass


def whole(made: Pass, batches: Batches, epoch: int = 0) -> tuple[dict[str, float], int]:
    """Begin the pass, take all steps of the epoch, and return the metrics and the number of finite steps."""
    made.begin()
    for piece in batches.pieces(epoch):
        made.advance(piece.plan, 0, piece.last - piece.first)
    return made.end()
