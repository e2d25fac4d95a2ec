"""The scenes are deterministic, their labels are right, and the difficulty dial turns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from stabfw_benchmarks.shapes import MAX_DIFFICULTY, scenes

SAMPLE = 120


def _sample(low: float = 0.0, high: float = MAX_DIFFICULTY) -> list[scenes.Scene]:
    return [scenes.generate("test", index, low=low, high=high) for index in range(SAMPLE)]


def _asked(
    kind: str, low: float = 0.0, high: float = MAX_DIFFICULTY
) -> list[tuple[scenes.Scene, scenes.Question]]:
    pairs = [
        (scene, question)
        for scene in _sample(low=low, high=high)
        for question in scenes.questions(scene, 3, [kind])
    ]
    assert pairs, f"no question of kind {kind}"
    return pairs


def _truth(question: scenes.Question) -> str:
    """The text of the right answer, also for lettered choices."""
    if not question.choices:
        return question.answer
    return question.choices[scenes.LETTERS.index(question.answer)]


def test_same_key_gives_same_scene_and_questions() -> None:
    first, second = scenes.generate("test", 7, 3), scenes.generate("test", 7, 3)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.objects == second.objects
    assert scenes.questions(first, 6) == scenes.questions(second, 6)


def test_scenes_do_not_depend_on_order() -> None:
    forwards = [scenes.generate("test", index).pixels for index in range(10)]
    backwards = [scenes.generate("test", index).pixels for index in reversed(range(10))]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_questions_do_not_disturb_later_scenes() -> None:
    expected = scenes.generate("test", 1).pixels
    scenes.questions(scenes.generate("test", 0), 6)
    assert np.array_equal(scenes.generate("test", 1).pixels, expected)


def test_splits_seeds_and_indices_are_disjoint() -> None:
    seen = {
        scenes.generate(split, index, seed).pixels.tobytes()
        for split in ("train", "validation", "test")
        for seed in (0, 1)
        for index in range(20)
    }
    assert len(seen) == 3 * 2 * 20


def test_pixels_are_rgb_bytes() -> None:
    pixels = scenes.generate("test", 0).pixels
    assert pixels.shape == (scenes.SIZE, scenes.SIZE, 3)
    assert pixels.dtype == np.uint8


def test_unknown_split_kind_and_range_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        scenes.generate("tset", 0)
    with pytest.raises(ValueError, match="difficulty range"):
        scenes.generate("test", 0, low=0.5, high=0.4)
    with pytest.raises(ValueError, match="unknown question kinds"):
        scenes.questions(scenes.generate("test", 0), 1, ["spatial"])


def test_difficulty_stays_within_range_and_fills_it() -> None:
    values = [scene.difficulty for scene in _sample(low=0.3, high=0.8)]
    assert min(values) >= 0.3
    assert max(values) <= 0.8
    assert max(values) - min(values) > 0.4


def test_every_kind_is_asked_in_balance() -> None:
    counts = Counter(q.kind for scene in _sample() for q in scenes.questions(scene, 6))
    assert set(counts) == set(scenes.KINDS)
    assert min(counts.values()) > 15


def test_questions_on_one_scene_differ() -> None:
    for scene in _sample():
        asked = [(q.kind, q.text) for q in scenes.questions(scene, 8)]
        assert len(asked) == len(set(asked))


def test_exist_answers() -> None:
    answers = set()
    for scene, question in _asked("exist"):
        present = any(f" {item.color} {item.shape}" in question.text for item in scene.objects)
        assert question.answer == ("yes" if present else "no")
        answers.add(question.answer)
    assert answers == {"yes", "no"}


@pytest.mark.parametrize("kind", ["count", "mc_count"])
def test_count_answers(kind: str) -> None:
    for scene, question in _asked(kind):
        counted = question.text.removeprefix("how many ").removesuffix(" are there?")
        matching = [
            item
            for item in scene.objects
            if counted == "objects"
            or counted == f"{item.color} objects"
            or counted in (f"{item.shape}s", f"{item.shape}es")
        ]
        assert _truth(question) == str(len(matching))


@pytest.mark.parametrize("kind", ["color", "mc_color"])
def test_color_answers(kind: str) -> None:
    for scene, question in _asked(kind):
        [target] = [item for item in scene.objects if f"the {item.shape}?" in question.text]
        assert _truth(question) == target.color


@pytest.mark.parametrize("kind", ["shape", "mc_shape"])
def test_shape_answers(kind: str) -> None:
    for scene, question in _asked(kind):
        [target] = [item for item in scene.objects if f" {item.color} " in question.text]
        assert _truth(question) == target.shape


def test_largest_answers() -> None:
    for scene, question in _asked("largest"):
        areas = [item.half_width * item.half_height for item in scene.objects]
        largest = scene.objects[int(np.argmax(areas))]
        assert question.answer in (largest.color, largest.shape)
        assert len(scene.objects) > 1


def test_position_answers() -> None:
    answers = set()
    for scene, question in _asked("position"):
        [target] = [item for item in scene.objects if item.name in question.text]
        vertical, horizontal = question.answer.split()
        assert (target.y < 32) == (vertical == "top")
        assert (target.x < 32) == (horizontal == "left")
        answers.add(question.answer)
    assert len(answers) == 4


def test_descriptions_name_every_object_from_left_to_right() -> None:
    for scene, question in _asked("describe"):
        left_to_right = sorted(scene.objects, key=lambda item: item.x)
        named = question.answer.split(", ")
        assert named == [f"a {item.color} {item.shape}" for item in left_to_right]


@pytest.mark.parametrize("kind", ["mc_color", "mc_shape", "mc_count"])
def test_choices_are_four_different_ones_and_letters_are_spread(kind: str) -> None:
    letters: Counter[str] = Counter()
    for _, question in _asked(kind):
        assert len(set(question.choices)) == 4
        letters[question.answer] += 1
    assert min(letters[letter] for letter in scenes.LETTERS) > 0.1 * letters.total()


def test_choices_are_rendered_with_letters() -> None:
    assert scenes.render_choices(("red", "blue")) == "\nA. red\nB. blue"
    assert scenes.render_choices(()) == ""


def test_objects_have_unique_names_and_lie_within_the_image() -> None:
    for scene in _sample():
        assert len({item.name for item in scene.objects}) == len(scene.objects) >= 1
        for item in scene.objects:
            assert item.half_width < item.x < scenes.SIZE - item.half_width
            assert item.half_height < item.y < scenes.SIZE - item.half_height


def test_objects_are_painted_in_their_colour() -> None:
    for scene in _sample(low=0.0, high=0.0):
        for item in scene.objects:
            painted = scene.pixels[int(item.y), int(item.x)].astype(float)
            assert np.abs(painted - item.rgb).max() < 12


def test_labels_name_the_nearest_palette_colour_within_the_dial() -> None:
    for scene in _sample():
        for item in scene.objects:
            ambiguity = scenes.color_ambiguity(item.rgb, item.color)
            assert ambiguity <= scenes.max_ambiguity(scene.difficulty) < 1


def test_harder_scenes_have_more_and_smaller_objects_in_less_clear_colours() -> None:
    dials = (0.0, 0.6, MAX_DIFFICULTY)
    by_dial = [_sample(low=dial, high=dial) for dial in dials]
    counts = [np.mean([len(s.objects) for s in sample]) for sample in by_dial]
    sizes = [np.mean([o.size for s in sample for o in s.objects]) for sample in by_dial]
    ambiguities = [
        np.mean([scenes.color_ambiguity(o.rgb, o.color) for s in sample for o in s.objects])
        for sample in by_dial
    ]
    assert counts[0] < counts[1] < counts[2]
    assert sizes[0] > sizes[1] > sizes[2]
    assert ambiguities[0] < ambiguities[1] < ambiguities[2]


def test_harder_scenes_are_noisier_and_darker() -> None:
    noise, brightness = [], []
    for dial in (0.0, 0.6, MAX_DIFFICULTY):
        sample = _sample(low=dial, high=dial)
        # Objects keep one pixel away from the border, so the border shows background only.
        borders = [scene.pixels[:, 0].astype(float) for scene in sample]
        noise.append(np.mean([border.std(axis=0).mean() for border in borders]))
        brightness.append(np.mean([border.mean() for border in borders]))
    assert noise[0] < noise[1] < noise[2]
    assert brightness[0] > brightness[1] > brightness[2]


def test_clear_scenes_keep_objects_apart_and_hard_ones_let_them_overlap() -> None:
    def overlaps(scene: scenes.Scene) -> int:
        return sum(
            abs(a.x - b.x) < a.half_width + b.half_width
            and abs(a.y - b.y) < a.half_height + b.half_height
            for position, a in enumerate(scene.objects)
            for b in scene.objects[:position]
        )

    assert sum(map(overlaps, _sample(low=0.0, high=0.0))) == 0
    assert sum(map(overlaps, _sample(low=1.0, high=1.0))) > 0


def test_question_margins_shrink_with_difficulty() -> None:
    for scene, question in _asked("position", 0.0, 0.0):
        [target] = [item for item in scene.objects if item.name in question.text]
        assert min(abs(target.x - 32), abs(target.y - 32)) >= 6
    closest = min(
        min(abs(item.x - 32), abs(item.y - 32))
        for scene, question in _asked("position", 1.0, 1.0)
        for item in scene.objects
        if item.name in question.text
    )
    assert closest < 2
