"""Test the validation split: for all labels, each image is in one part, each class has its share, always the same."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.trainers.data_adapters.array_slicing import train_validation_split

from mnist_job.config.settings import JobConfig
from mnist_job.data import dataset, sources, split

some = settings(max_examples=300, deadline=None, derandomize=True)
sizes = st.lists(st.integers(0, 60), min_size=2, max_size=12).filter(lambda n: sum(map(bool, n)) > 1)


@st.composite
def labelled(draw):
    """Labels in any order, the number of validation images, and a seed. At least one image of each class can stay."""
    images = draw(sizes)
    labels = np.repeat(np.arange(len(images), dtype=np.int32), images)
    labels = np.random.default_rng(draw(st.integers(0, 9))).permutation(labels) if draw(st.booleans()) else labels
    different = sum(map(bool, images))
    held = draw(st.integers(0, len(labels) - different))
    return labels, held, draw(st.integers(0, 2**32 - 1))


@some
@given(labelled())
def test_each_class_gives_its_share_within_one_image_and_keeps_at_least_one(example):
    labels, held, seed = example
    rows = split.stratified(labels, held, seed)
    assert len(set(rows.tolist())) == len(rows) == held
    assert rows.tolist() == sorted(rows.tolist())
    images, given_away = (np.bincount(some, minlength=labels.max() + 1) for some in (labels, labels[rows]))
    assert (given_away <= np.maximum(images - 1, 0)).all()
    # A class that can give its share gives the rounded proportion. If a class cannot, the others give the rest.
    full = given_away == np.maximum(images - 1, 0)
    whole = images * held / len(labels)
    if (whole[images > 0] <= (images - 1)[images > 0]).all():
        assert (np.abs(given_away - whole) < 1).all()
    assert (given_away > whole - 1)[~full].all()
    for one, other in itertools.combinations(np.flatnonzero(~full), 2):
        # There is one proportion from which both are rounded.
        low = max((given_away[i] - 1) / images[i] for i in (one, other))
        high = min((given_away[i] + 1) / images[i] for i in (one, other))
        assert low < high


@some
@given(labelled())
def test_rows_are_exchanged_in_place_and_all_the_others_stay(example):
    labels, held, seed = example
    images = np.arange(len(labels) * 6, dtype=np.int64).astype(np.uint8).reshape(-1, 2, 3)
    images[:, 0, 0], images[:, 0, 1] = np.arange(len(labels)) % 256, np.arange(len(labels)) // 256
    moved, moved_labels = images.copy(), labels.copy()
    rows = split.stratified(labels, held, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "EXCHANGE_BYTES", 20)  # several exchanges instead of one
        split.move_to_end(moved, moved_labels, rows)
    at = len(labels) - held
    origin = moved[:, 0, 0].astype(int) + 256 * moved[:, 0, 1].astype(int)
    assert sorted(origin[at:]) == rows.tolist()
    assert sorted(origin) == list(range(len(labels)))
    assert np.array_equal(moved, images[origin])
    assert np.array_equal(moved_labels, labels[origin])
    stayed = origin == np.arange(len(labels))
    assert stayed.sum() == len(labels) - 2 * (rows < at).sum()


@some
@given(labelled())
def test_it_is_a_function_of_labels_fraction_and_seed(example):
    labels, held, seed = example
    assert np.array_equal(split.stratified(labels, held, seed), split.stratified(labels.copy(), held, seed))


def test_another_seed_draws_others():
    labels = np.arange(1000, dtype=np.int32) % 10
    drawn = {tuple(split.stratified(labels, 200, seed)) for seed in range(5)}
    assert len(drawn) == 5


def test_the_draw_is_not_the_order_of_an_epoch():
    """Both are permutations that the seed determines. Their numbers could be equal."""
    labels = np.zeros(1000, np.int32)
    for epoch in range(3):
        order = np.random.default_rng((7, epoch)).permutation(1000)
        assert sorted(order[:200]) != split.stratified(labels, 200, 7).tolist()


@some
@given(images=st.integers(2, 2000), fraction=st.floats(0.001, 0.999))
def test_the_tail_is_keras_s(images, fraction):
    at = split.boundary(images, fraction)
    if 0 < at < images:
        (train,), (validation,) = train_validation_split((np.arange(images),), fraction)
        assert (len(train), len(validation)) == (at, images - at)


@pytest.fixture
def sorted_npz(npz, arrays):
    """The data are sorted by class: the end contains only class 2."""
    order = np.argsort(arrays["y_train"], kind="stable")
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][order], arrays["y_train"][order]
    return npz(x_train=arrays["x_train"], y_train=arrays["y_train"]), arrays


def test_data_sorted_by_class_are_divided_by_class(sorted_npz):
    path, arrays = sorted_npz
    training = dataset.load_training(JobConfig(batch_size=8), sources.read(str(path)))
    for part, expected in ((training.train, [27, 27, 26]), (training.validation, [7, 6, 7])):
        assert abs(np.bincount(part.targets) - expected).max() <= 1
        for image, label in zip(part.inputs, part.targets, strict=True):
            (index,) = np.flatnonzero((arrays["x_train"] == image).all(axis=(1, 2)))
            assert arrays["y_train"][index] == label


def test_the_checksum_is_that_of_the_file_whatever_the_split(npz):
    config = JobConfig(data=str(npz()), batch_size=8)
    others = [config.model_copy(update=changed) for changed in ({"validation_split": "tail"}, {"seed": 1})]
    assert len({dataset.check(one, sources.read(one.data)).sha256 for one in (config, *others)}) == 1


def test_a_split_of_one_image_is_that_image():
    labels = np.array([0, 1, 1], np.int32)
    assert split.stratified(labels, 1, 0).tolist() in ([1], [2])


def test_it_holds_no_second_copy_of_the_images():
    images, labels = np.zeros((60_000, 28, 28), np.uint8), np.sort(np.arange(60_000, dtype=np.int32) % 10)
    tracemalloc.start()
    split.move_to_end(images, labels, split.stratified(labels, 12_000, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 8
