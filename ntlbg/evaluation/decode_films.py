"""Films for the decoder bench, made on the spot: textured shots that pan, things that move, cuts, 4-second events.

No footage is needed and no byte is random: the same seed gives the same film with the same encoder. Motion, texture
and a little grain make the encoder work as it does on footage; flat graphics would decode several times faster.

Shapes: H x W pixels, planes as uint8 arrays of YUV 4:2:0 in television range.
"""

import json
import os
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


RATE = 25
EVENT_SECONDS = 4.0
# Places that shots come back to, as films do; every event shows something that occurs nowhere else.
_PLACES = 24
_SHOT_MEDIAN, _SHOT_SIGMA, _SHOT_RANGE = 4.5, 0.8, (1.0, 40.0)  # seconds, log-normal
_GRAIN = 1.5  # standard deviation; of 8 bits
_EVENT_SHOT = 7.0  # an event inside a shot needs a shot at least this long


@dataclass(frozen=True)
class Film:
    """What is made: `blind` places keyframes every `keyint` pictures and nowhere else, as live encoders do."""

    name: str
    width: int
    height: int
    seconds: int
    events: int
    seed: int
    blind: bool = False
    keyint: int = 250


FILMS = {
    film.name: film
    for film in (
        Film("10min_720p", 1280, 720, 600, events=12, seed=1),
        Film("60min_360p", 640, 360, 3600, events=24, seed=2),
        Film("20min_360p_blind", 640, 360, 1200, events=24, seed=3, blind=True, keyint=300),
    )
}


@dataclass
class Event:
    """`kind` is "cut" (a shot of its own) or "appears" (something enters a running shot); seconds [start, end)."""

    kind: str
    start: float
    end: float


@dataclass
class _Shot:
    start: int
    end: int
    picture: tuple[np.ndarray, np.ndarray, np.ndarray]
    at: np.ndarray  # where the camera starts, pixels of the place
    speed: np.ndarray  # pixels per picture
    things: list


def _smooth(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Value noise in [-1, 1]: a random grid of about `cells` cells across, linearly interpolated."""
    rows, columns = max(2, cells * height // width) + 1, cells + 1
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    y, x = np.linspace(0, rows - 1.001, height), np.linspace(0, columns - 1.001, width)
    top, left = y.astype(int), x.astype(int)
    dy, dx = (y - top)[:, None].astype(np.float32), (x - left)[None].astype(np.float32)
    above = grid[top][:, left] * (1 - dx) + grid[top][:, left + 1] * dx
    below = grid[top + 1][:, left] * (1 - dx) + grid[top + 1][:, left + 1] * dx
    return above * (1 - dy) + below * dy


def _texture(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y (H, W), U and V (H/2, W/2) of one place or thing: falling spectrum, edges, a colour of its own."""
    luma = np.full((height, width), rng.uniform(70, 170), dtype=np.float32)
    for cells, strength in ((3, 34), (9, 20), (28, 12), (90, 7), (max(4, width // 3), 4)):
        luma += strength * _smooth(rng, height, width, cells)
    for _ in range(14):  # straight edges: walls, windows, tables
        h, w = rng.integers(height // 20 + 2, height // 3 + 3), rng.integers(width // 20 + 2, width // 3 + 3)
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        luma[top : top + h, left : left + w] += rng.uniform(-45, 45)
    chroma = [
        np.clip(rng.uniform(90, 166) + 22 * _smooth(rng, height // 2, width // 2, 5), 20, 236).astype(np.uint8)
        for _ in range(2)
    ]
    return np.clip(luma, 24, 228).astype(np.uint8), chroma[0], chroma[1]


def _even(value: float) -> int:
    return int(value) // 2 * 2


class _Scenes:
    """The shots and events of a film, and its pictures."""

    def __init__(self, film: Film):
        self.film, rng = film, np.random.default_rng(film.seed)
        self.height, self.width = film.height, film.width
        big = (_even(1.6 * self.height), _even(1.6 * self.width))
        places = [_texture(rng, *big) for _ in range(_PLACES)]
        things = [_texture(rng, _even(self.height / 5), _even(self.height / 6)) for _ in range(8)]
        grain = _GRAIN * rng.standard_normal((8, self.height + 16, self.width + 16), dtype=np.float32)
        self.grain = grain.round().clip(-12, 12).astype(np.int8)
        total, cursor, shots = film.seconds * RATE, 0, []
        while cursor < total:
            length = np.clip(_SHOT_MEDIAN * np.exp(_SHOT_SIGMA * rng.standard_normal()), *_SHOT_RANGE)
            end = min(total, cursor + round(length * RATE))
            moving = [
                (things[rng.integers(len(things))], rng.uniform(0, 1, 2), rng.uniform(-0.006, 0.006, 2))
                for _ in range(rng.integers(2, 7))
            ]
            speed = rng.uniform(-1, 1, 2) * rng.choice([0.3, 1.0, 3.0, 6.0]) * self.height / 720
            at = rng.uniform(0, 1, 2) * (np.array(big) - (self.height, self.width))
            shots.append(_Shot(cursor, end, places[rng.integers(_PLACES)], at, speed, moving))
            cursor = end
        self.shots, self.events, self.shown = shots, [], []
        self._place_events(rng, big)

    def _place_events(self, rng: np.random.Generator, big: tuple[int, int]) -> None:
        """Half of the events cut into the film as a shot of their own, half appear inside a long shot."""
        length = round(EVENT_SECONDS * RATE)
        hosts = [shot for shot in self.shots[1:] if shot.end - shot.start >= _EVENT_SHOT * RATE]
        chosen = [hosts[i] for i in np.sort(rng.choice(len(hosts), self.film.events, replace=False))]
        for number, host in enumerate(chosen):
            start = int(rng.integers(host.start + RATE, host.end - length - RATE + 1))
            kind = ("cut", "appears")[number % 2]
            self.events.append(Event(kind, start / RATE, (start + length) / RATE))
            if kind == "cut":
                own = _Shot(start, start + length, _texture(rng, *big), np.zeros(2), np.array([0.5, 1.0]), [])
                self.shown.append((start, start + length, own, None))
            else:
                thing = _texture(rng, _even(self.height / 2), _even(self.height / 2))
                self.shown.append((start, start + length, None, (thing, rng.uniform(0.2, 0.8, 2))))

    def _paste(self, planes, thing, place: np.ndarray) -> None:
        """Puts `thing` with its middle at `place`, fractions of the picture's height and width."""
        height, width = thing[0].shape
        top = _even(np.clip(place[0] * self.height - height / 2, 0, self.height - height))
        left = _even(np.clip(place[1] * self.width - width / 2, 0, self.width - width))
        for plane, part, step in zip(planes, thing, (1, 2, 2), strict=True):
            y, x = top // step, left // step
            plane[y : y + part.shape[0], x : x + part.shape[1]] = part

    def pictures(self):
        """Every picture as (H * 3/2, W) uint8, the planes below one another."""
        h, w = self.height, self.width
        out = np.empty((h * 3 // 2, w), dtype=np.uint8)
        planes = out[:h], out[h : h + h // 4].reshape(h // 2, w // 2), out[h + h // 4 :].reshape(h // 2, w // 2)
        for shot in self.shots:
            for number in range(shot.start, shot.end):
                cut, appears = shot, None
                for start, end, own, thing in self.shown:
                    if start <= number < end:
                        cut, appears = own or shot, thing
                big = cut.picture[0].shape
                # the camera goes to the edge of the place and back
                room = np.array([big[0] - h, big[1] - w], dtype=float)
                at = np.abs((cut.at + cut.speed * (number - cut.start) + room) % (2 * room) - room)
                top, left = _even(at[0]), _even(at[1])
                for plane, source, step in zip(planes, cut.picture, (1, 2, 2), strict=True):
                    y, x = top // step, left // step
                    plane[:] = source[y : y + plane.shape[0], x : x + plane.shape[1]]
                for thing, place, speed in cut.things:
                    self._paste(planes, thing, (place + speed * (number - cut.start)) % 1)
                if appears is not None:
                    self._paste(planes, *appears)
                y, x = (number * 7) % 16, (number * 11) % 16
                planes[0][:] += self.grain[number % 8, y : y + h, x : x + w].view(np.uint8)
                yield out


def make_film(film: Film, folder: Path) -> tuple[Path, list[Event]]:
    """The film's file and its events; made if `folder` does not hold it yet."""
    path, notes = folder / f"{film.name}.mp4", folder / f"{film.name}.json"
    if notes.exists() and path.exists() and json.loads(notes.read_text())["film"] == asdict(film):
        return path, [Event(**event) for event in json.loads(notes.read_text())["events"]]
    folder.mkdir(parents=True, exist_ok=True)
    scenes, unfinished = _Scenes(film), path.with_suffix(".part")
    options = {"preset": "superfast", "crf": "24", "g": str(film.keyint)}
    if film.blind:
        options["sc_threshold"] = "0"
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.thread_count = 1  # the same file everywhere, whatever the number of cores
        for number, picture in enumerate(scenes.pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.replace(unfinished, path)
    events = [asdict(event) for event in scenes.events]
    notes.write_text(json.dumps({"film": asdict(film), "events": events}, indent=1))
    return path, scenes.events
