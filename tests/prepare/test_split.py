from collections import Counter

import pytest

from fundusforge.prepare.split import Member, assign, groups_of


def people(count: int, **options) -> list[Member]:
    return [
        Member(patient=f"p{i}", label=str(i % 5), **options) for i in range(count) for _ in range(1 + i % 3)
    ]


def test_shares_and_strata():
    members = people(200)
    splits = assign(members, val=0.2, test=0.1, seed=0)
    assert Counter(splits.values()) == {"train": 140, "val": 40, "test": 20}
    label = {member.patient: member.label for member in members}
    for split, each in (("val", 8), ("test", 4)):
        counts = Counter(label[patient] for patient, found in splits.items() if found == split)
        assert all(abs(counts[str(i)] - each) <= 1 for i in range(5)), counts


def test_depends_on_the_seed_and_not_on_the_order():
    members = people(60)
    first = assign(members, val=0.2, test=0.2, seed=3)
    assert first == assign(members[::-1], val=0.2, test=0.2, seed=3)
    assert first != assign(members, val=0.2, test=0.2, seed=4)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_small_sets_get_one_patient_in_val(count):
    splits = assign(people(count), val=0.1, test=0, seed=0)
    assert Counter(splits.values()) == {"val": 1, "train": count - 1}
    assert set(assign(people(1), val=0.5, test=0, seed=0).values()) == {"train"}


def test_patients_who_share_a_picture_stay_together():
    members = people(40)
    together = [(f"p{i}", f"p{i + 1}") for i in range(0, 20, 2)] + [("p1", "p2")]
    assert groups_of(["a", "b", "c"], [("c", "b")]) == {"a": "a", "b": "b", "c": "b"}
    for seed in range(5):
        splits = assign(members, val=0.3, test=0.3, seed=seed, together=together)
        assert all(splits[a] == splits[b] for a, b in together)
        assert len(splits) == 40


def test_the_publishers_split_stays():
    members = [Member(patient=f"t{i}", publisher="train") for i in range(20)]
    members += [Member(patient=f"x{i}", publisher="test") for i in range(7)]
    members += [Member(patient="torn", publisher="test"), Member(patient="torn", publisher="train")]
    splits = assign(members, val=0.25, test=0.5, seed=0)
    assert {splits[f"x{i}"] for i in range(7)} == {"test"}
    assert Counter(splits[f"t{i}"] for i in range(20))["val"] in (4, 5)
    assert "test" not in {splits[f"t{i}"] for i in range(20)} and splits["torn"] != "test"
    named = [*members, Member(patient="v", publisher="val")]
    assert [
        patient for patient, split in assign(named, val=0.25, test=0.5, seed=0).items() if split == "val"
    ] == ["v"]
