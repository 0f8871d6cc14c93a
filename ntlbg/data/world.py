"""A procedural long-video world: what happens, when and where, all from one seed.

A video is a list of scenes (textured backgrounds, hard cuts), a list of events (one coloured shape at a random place
for a few seconds, never two at once) and a few neutral distractors that drift all the time. Nothing here draws pixels
(`world_render`), writes files (`world_video`) or asks questions (`questions`).

Times are whole seconds. Places and sizes are fractions of the frame's side, so that one specification renders at any
size.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
BACKGROUNDS = ("forest", "desert", "ocean", "city", "snow", "night", "brick", "meadow")
HELDOUT_BACKGROUNDS = ("canyon", "reef", "storm", "orchard", "harbour", "marble", "clay")  # never trained on
# What a model trained with `withheld` never saw together, though it knows every one of the colours and shapes.
WITHHELD_PAIRS = frozenset(
    {
        ("red", "star"),
        ("orange", "cross"),
        ("green", "triangle"),
        ("blue", "circle"),
        ("purple", "diamond"),
        ("pink", "square"),
    }
)

MIN_EVENTS = 16
MAX_EVENTS = 44
SECONDS_PER_EVENT = 14.0  # density in long videos; short ones hold MIN_EVENTS all the same
EVENT_SECONDS = (2, 16)
MEAN_EXTRA_SECONDS = 3.5  # of an event's length above the least, before it is cut at the most
EVENT_GAP = 2  # seconds between events: a group of two seconds never holds two of them
SCENES = (3, 7)
MIN_SCENE_SHARE = 0.127  # just above 1/8: eight evenly spaced frames meet every scene
LONGEST_MARGIN = 0.25  # of the video: the longest scene then wins among eight evenly spaced frames as well

# Seeds are split by range, so that no video of one split is ever drawn in another.
SPLITS = {
    "train": (0, 1_000_000),
    "validation": (1_000_000, 2_000_000),
    "test": (2_000_000, 3_000_000),
    "test-background": (3_000_000, 4_000_000),
    "test-pairs": (4_000_000, 5_000_000),
}


@dataclass(frozen=True)
class Scene:
    """`background` is shown from `start` to `end` (seconds); `seed` fixes its texture."""

    start: int
    end: int
    background: str
    seed: int


@dataclass(frozen=True)
class Event:
    """One `color` `shape` from `start` to `end` (seconds), centred at (`x`, `y`), `radius` in fractions of the side.

    `angle` is in radians; `hue`, `value` shift the palette colour by a little.
    """

    start: int
    end: int
    color: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    hue: float
    value: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Distractor:
    """A grey ellipse that drifts for the whole video: place and velocity (sides per second), radii, grey level
    0..255.
    """

    x: float
    y: float
    vx: float
    vy: float
    rx: float
    ry: float
    grey: int


@dataclass(frozen=True)
class VideoSpec:
    """All there is to know about one video. `duration` in seconds; scenes tile it; events are sorted and disjoint."""

    seed: int
    duration: int
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    distractors: tuple[Distractor, ...]
    kind: str = "world"  # which function of the seed it is
    withheld: frozenset[tuple[str, str]] = frozenset()  # (colour, shape) pairs that do not exist in its world

    @property
    def video_id(self) -> str:
        return f"{self.kind}-{self.seed:07d}-{self.duration}s"

    def scene_at(self, t: float) -> Scene:
        """The scene on screen at second `t`."""
        for scene in self.scenes:
            if scene.start <= t < scene.end:
                return scene
        raise ValueError(f"second {t} lies outside the video; pass 0 <= t < {self.duration}")

    def event_at(self, t: float) -> Event | None:
        """The event on screen at second `t`, or None."""
        for event in self.events:
            if event.start <= t < event.end:
                return event
        return None


def split_seed(split: str, index: int) -> int:
    """Seed of the `index`-th video of a split, a key of `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; pass one of {', '.join(SPLITS)}")
    low, high = SPLITS[split]
    if not 0 <= index < high - low:
        raise ValueError(f"split {split!r} has {high - low} seeds, but number {index} was asked for")
    return low + index


def build_video(
    seed: int,
    duration: int = 256,
    *,
    num_scenes: int | None = None,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    withheld: frozenset[tuple[str, str]] = frozenset(),
) -> VideoSpec:
    """Draw a video from `seed`.

    Args:
        seed: any non-negative integer; see `split_seed` for the ranges of the splits.
        duration: seconds, even, at least 128 (so that 16 events fit).
        num_scenes: 3 to 7, or None to draw it.
        backgrounds: what the scenes are drawn from, 7 at least.
        withheld: (colour, shape) pairs that are never shown, few enough that every colour and shape has others.

    Raises:
        ValueError: if `duration` or `num_scenes` is out of range.
    """
    if duration < 128 or duration % 2:
        raise ValueError(f"`duration` must be an even number of seconds, at least 128, but is {duration}")
    if num_scenes is not None and not SCENES[0] <= num_scenes <= SCENES[1]:
        raise ValueError(f"`num_scenes` must lie in {SCENES[0]}..{SCENES[1]}, but is {num_scenes}")
    rng = np.random.default_rng([7, seed, duration])
    scenes = draw_scenes(rng, duration, num_scenes, backgrounds)
    events = _draw_events(rng, duration, withheld)
    distractors = tuple(draw_distractor(rng) for _ in range(rng.integers(2, 5)))
    kind = "withheld" if withheld else "world"
    return VideoSpec(seed, duration, scenes, events, distractors, kind, withheld)


def draw_scenes(
    rng: np.random.Generator, duration: int, num_scenes: int | None, names: tuple[str, ...] = BACKGROUNDS
) -> tuple[Scene, ...]:
    """Scenes of the named backgrounds that tile `duration` seconds; 3 to 7 where `num_scenes` is None."""
    count = num_scenes or int(rng.integers(SCENES[0], SCENES[1] + 1))
    spare = 1.0 - count * MIN_SCENE_SHARE
    shares = np.full(count, MIN_SCENE_SHARE)
    if spare > LONGEST_MARGIN + 0.01 and rng.random() < 0.7:  # one scene clearly longer than every other one
        rest = (spare - LONGEST_MARGIN - 0.01) * rng.random()
        extra = rng.dirichlet(np.ones(count)) * rest
        shares += extra
        longest = int(rng.integers(count))
        shares[longest] = shares.max() + spare - rest
        shares /= shares.sum()
        shares = np.maximum(shares, MIN_SCENE_SHARE)
        shares[longest] -= shares.sum() - 1.0
    else:
        shares += rng.dirichlet(np.ones(count)) * spare
    # Cuts fall on even seconds: the two frames of a group show one background.
    cuts = np.round(np.cumsum(shares)[:-1] * duration / 2).astype(int) * 2
    bounds = [0, *cuts.tolist(), duration]
    backgrounds = rng.choice(len(names), size=count, replace=False)
    seeds = rng.integers(2**31, size=count)
    return tuple(Scene(bounds[i], bounds[i + 1], names[backgrounds[i]], int(seeds[i])) for i in range(count))


def _draw_events(rng: np.random.Generator, duration: int, withheld: frozenset) -> tuple[Event, ...]:
    count = int(np.clip(round(duration / SECONDS_PER_EVENT), MIN_EVENTS, MAX_EVENTS))
    names = _draw_names(rng, count, withheld)
    low, high = EVENT_SECONDS
    lengths = np.minimum(low + np.floor(rng.exponential(MEAN_EXTRA_SECONDS, size=count)).astype(int), high)
    while lengths.sum() + EVENT_GAP * (count - 1) > 0.8 * duration:
        lengths[lengths.argmax()] -= 1
    free = duration - lengths.sum() - EVENT_GAP * (count - 1)
    # Uniform spacings: `count` sorted draws cut the free time into gaps, so that event times are uniform over the
    # video.
    gaps = np.diff(np.concatenate([[0], np.sort(rng.integers(free + 1, size=count))]))
    events, clock = [], 0
    for (color, shape), length, gap in zip(names, lengths, gaps, strict=True):
        start = clock + int(gap)
        radius = float(rng.uniform(0.21, 0.29))
        x, y = rng.uniform(radius + 0.02, 0.98 - radius, size=2)
        events.append(
            Event(
                start,
                start + int(length),
                color,
                shape,
                float(x),
                float(y),
                radius,
                angle=float(rng.uniform(-0.2, 0.2)),
                hue=float(rng.uniform(-0.014, 0.014)),
                value=float(rng.uniform(-0.1, 0.05)),
            )
        )
        clock = start + int(length) + EVENT_GAP
    return tuple(events)


def _draw_names(rng: np.random.Generator, count: int, withheld: frozenset) -> list[tuple[str, str]]:
    """`count` (colour, shape) pairs, none withheld, in which two shapes and two colours occur once and the others 1
    to 4 times each.
    """

    def pick(choices: list[tuple[str, str]]) -> tuple[str, str]:
        left = [pair for pair in choices if pair not in withheld]
        return left[rng.integers(len(left))]

    colors, shapes = rng.permutation(COLORS).tolist(), rng.permutation(SHAPES).tolist()
    common_colors, common_shapes = colors[2:], shapes[2:]
    names = [pick([(color, shape) for color in common_colors]) for shape in shapes[:2]]
    names += [pick([(color, shape) for shape in common_shapes]) for color in colors[:2]]
    pairs = [(c, s) for c in common_colors for s in common_shapes if (c, s) not in withheld]
    pattern = (4, 3, 2, 1, 1, 1)
    for number, index in enumerate(rng.permutation(len(pairs))):
        missing = count - len(names)
        names += [pairs[index]] * min(pattern[number % len(pattern)], missing)
    # The same object twice in a row would be hard to tell from one long event, for people too.
    while True:
        order = rng.permutation(count)
        shuffled = [names[i] for i in order]
        if all(a != b for a, b in pairwise(shuffled)):
            return shuffled


def draw_distractor(rng: np.random.Generator) -> Distractor:
    """A grey ellipse somewhere, drifting anywhere."""
    x, y = rng.random(2)
    vx, vy = rng.uniform(-0.04, 0.04, size=2)
    rx, ry = rng.uniform(0.025, 0.06, size=2)
    return Distractor(*map(float, (x, y, vx, vy, rx, ry)), grey=int(rng.integers(40, 150)))
