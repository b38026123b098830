from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from drcnn.detector.random_keys import random_keys
from drcnn.detector.sampling import Sample, sample_positives, sample_random


def masks(
    seed: int, images: int, candidates: int, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(images, candidates, generator=generator)
    positive = draw < share
    negative = (draw > share) & (draw < 0.95)  # the rest takes no part
    return positive, negative, random_keys(torch.arange(images) + seed, 2, candidates)


def chosen(sample: Sample, image: int) -> list[int]:
    return sample.candidate[image, sample.taken[image]].tolist()


@given(st.integers(0, 10**6), st.integers(1, 80), st.floats(0, 1), st.sampled_from([0.25, 0.5]))
def test_random_sampling_keeps_its_promises(
    seed: int, candidates: int, share: float, fraction: float
) -> None:
    count = 32
    positive, negative, keys = masks(seed, 3, candidates, share)
    sample = sample_random(positive, negative, keys, count=count, positive_fraction=fraction)
    for image in range(3):
        index = chosen(sample, image)
        assert len(set(index)) == len(index)
        positives = int(positive[image, index].sum())
        assert (positive | negative)[image, index].all()
        assert positives == min(int(positive[image].sum()), int(count * fraction), candidates)
        wanted = min(int(negative[image].sum()), count - positives)
        assert len(index) - positives == wanted
        assert torch.equal(sample.positive[image, sample.taken[image]], positive[image, index])


@given(st.integers(0, 10**6), st.integers(1, 80), st.floats(0, 1))
def test_positive_sampling_takes_positives_only_up_to_its_cap(
    seed: int, candidates: int, share: float
) -> None:
    positive, _, keys = masks(seed, 2, candidates, share)
    sample = sample_positives(positive, keys, count=16)
    for image in range(2):
        index = chosen(sample, image)
        assert positive[image, index].all()
        assert len(set(index)) == len(index) == min(int(positive[image].sum()), 16)


def test_every_candidate_is_as_likely() -> None:
    images, candidates = 4000, 20
    keys = random_keys(torch.arange(images), 3, candidates)
    sample = sample_positives(torch.ones(images, candidates, dtype=torch.bool), keys, count=5)
    share = torch.bincount(sample.candidate.flatten(), minlength=candidates) / images
    # Binomial, p = 1/4: five standard deviations.
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / images) ** 0.5


def test_keys_depend_on_image_purpose_and_index_only() -> None:
    keys = torch.tensor([7, 2**62 + 1, 0])
    both = random_keys(keys, 2, 100)
    assert torch.equal(random_keys(keys[1:2], 2, 40), both[1:2, :40])
    assert not torch.equal(random_keys(keys, 3, 100), both)
    assert both.unique().numel() > 295
    assert both.min() >= 0
    assert both.max() < 1


def test_keys_are_uniform_and_uncorrelated() -> None:
    values = random_keys(torch.arange(200), 1, 500)
    assert abs(values.mean().item() - 0.5) < 0.005
    assert abs(values.var().item() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(torch.stack((values[:, :-1].flatten(), values[:, 1:].flatten())))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack((values[:-1].flatten(), values[1:].flatten())))[0, 1]) < 0.01
