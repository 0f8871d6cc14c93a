"""Files that want something: scripts that name other files and hosts, and MP4 headers that claim too much."""

import struct
import zlib
from pathlib import Path


def scripts(folder: Path, port: int) -> dict[str, str]:
    """Text by kind: playlists and scripts that lead to `planted.*` in `folder` and to a server on `port`."""
    address = f"http://127.0.0.1:{port}/secret"
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n{}#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"

    def dash(base: str, head: str = "") -> str:
        return (
            f'<?xml version="1.0"?>{head}<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
            '<AdaptationSet mimeType="video/mp4" contentType="video"><Representation id="v" bandwidth="1000" '
            f'width="96" height="64" codecs="avc1.64001e"><BaseURL>{base}</BaseURL></Representation>'
            "</AdaptationSet></Period></MPD>"
        )

    entity = f'<!DOCTYPE MPD [<!ENTITY x SYSTEM "file://{folder}/planted.mp4"><!ENTITY % y SYSTEM "{address}"> %y;]>'
    return {
        "concat": "ffconcat version 1.0\nfile 'planted.mp4'\n",
        "concat by address": f"ffconcat version 1.0\nfile '{address}.mp4'\n",
        "playlist": playlist.format("", f"{folder}/planted.ts"),
        "playlist beside": playlist.format("", "planted.ts"),
        "playlist by address": playlist.format("", f"{address}.ts"),
        "playlist with a key": playlist.format(f'#EXT-X-KEY:METHOD=AES-128,URI="{address}.key"\n', "planted.ts"),
        "playlist with a header": playlist.format(f'#EXT-X-MAP:URI="{folder}/planted.mp4"\n', "planted.ts"),
        "playlist of playlists": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{address}.m3u8\n",
        "playlist by concat": playlist.format("", f"concat:{folder}/planted.ts|{folder}/planted.ts"),
        "playlist by subfile": playlist.format("", f"subfile,,start,0,end,0,,:{folder}/planted.ts"),
        "dash": dash(f"file://{folder}/planted.mp4"),
        "dash beside": dash("planted.mp4"),
        "dash by address": dash(f"{address}.mp4"),
        "dash with entities": dash("&x;", entity),
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "sdp by rtsp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\na=control:rtsp://127.0.0.1:{port}/\n"
        f"c=IN IP4 127.0.0.1\nt=0 0\nm=video 0 RTP/AVP/TCP 96\na=control:rtsp://127.0.0.1:{port}/a\n",
        "subtitle index": "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\npalette: "
        + ", ".join(["000000"] * 16)
        + "\nid: en, index: 0\ntimestamp: 00:00:00:100, filepos: 000000000\n",
        "reference": f"[Reference]\nRef1={address}.asf?MSWMExt=.asf\n",
        "svg": '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" '
        f'height="9"><image xlink:href="{address}.png" width="9" height="9"/></svg>',
    }


# -- MP4 headers (ISO/IEC 14496-12) ---------------------------------------------------------------------------------

TABLES = ("moov", "trak", "mdia", "minf", "stbl")


def box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content


def full_box(kind: str, *numbers: int) -> bytes:
    """A box of version 0 with 32-bit numbers."""
    return box(kind, struct.pack(f">{1 + len(numbers)}I", 0, *numbers))


def with_box(content: bytes, path: tuple[str, ...], new: bytes) -> bytes:
    """The MP4 file `content` with the box at `path` replaced, or appended to its parent, and all sizes put right."""
    out, at, found = b"", 0, False
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        if kind == path[0].encode() and not found:
            found = True
            out += new if len(path) == 1 else box(path[0], with_box(content[at + 8 : at + size], path[1:], new))
        else:
            out += content[at : at + size]
        at += size
    return out if found else out + new


def claiming(content: bytes, samples: int, **other: bytes) -> bytes:
    """`content` with a header of as few bytes that claims `samples` samples of one byte each."""
    tables = {
        "stsz": full_box("stsz", 1, samples),
        "stsc": full_box("stsc", 1, 1, samples, 1),
        "stts": full_box("stts", 1, samples, 512),
        "stco": full_box("stco", 1, 48),
    }
    for name, table in (tables | other).items():
        content = with_box(content, (*TABLES, name), table)
    return content


def _in_description(content: bytes, new: bytes) -> bytes:
    """`content` with the box `new` inside its only sample description."""
    at = content.index(b"stsd") - 4
    size = struct.unpack_from(">I", content, at)[0]
    entry = struct.unpack_from(">I", content, at + 16)[0]
    inner = content[at + 8 : at + 16] + struct.pack(">I", entry + len(new)) + content[at + 20 : at + size] + new
    return with_box(content, (*TABLES, "stsd"), box("stsd", inner))


def _wide(content: bytes) -> bytes:
    """The same box with its size in 64 bits."""
    return struct.pack(">I4sQ", 1, content[4:8], len(content) + 8) + content[8:]


def _sound(content: bytes) -> bytes:
    """`content` as uncompressed sound, of which FFmpeg keeps an entry per 1024 samples: still too many."""
    content = content.replace(b"vide", b"soun").replace(b"avc1", b"sowt")
    places = box("stco", struct.pack(">II", 0, 1000) + bytes(4000))
    return claiming(content, 2**31, stts=full_box("stts", 1, 2**31, 1), stco=places)


def external_reference(content: bytes, target: Path) -> bytes:
    """`content` with pictures that lie in the file `target` (an alias record in `dref`, as QuickTime has them)."""
    path = str(target).encode()
    path += bytes(len(path) % 2)
    alias = bytes(10) + b"\0" + bytes(27 + 12) + b"\0" + bytes(63 + 16) + struct.pack(">HH", 0, 0) + bytes(16)
    alias += struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    entry = box("alis", struct.pack(">I", 0) + alias)
    return with_box(content, (*TABLES[:4], "dinf", "dref"), box("dref", struct.pack(">II", 0, 1) + entry))


def bombs(plain: bytes, fragmented: bytes) -> dict[str, bytes]:
    """Small files by kind that FFmpeg would unfold to gigabytes or minutes, made from two films of a few pictures."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    header = box("cmov", box("dcom", b"zlib") + box("cmvd", struct.pack(">I", 64 * 2**20) + packed))
    at = fragmented.index(b"trun") + 4
    picture = struct.pack(">I", 0) + box("hdlr", bytes(8) + b"pict" + bytes(13))
    start = box("ftyp", b"heic\0\0\0\0mif1heic")
    many = full_box("stsz", 1, 2**26)
    without = with_box(plain, (*TABLES, "stsz"), box("skip", b""))
    edit = struct.pack(">IIHH", 80_000, 0, 1, 0)
    items = box("iinf", struct.pack(">II", 1 << 24, 2**27) + box("infe", bytes(20)))
    places = box("iloc", struct.pack(">IHI", 2 << 24, 0x4400, 2**27) + bytes(60))
    return {
        "samples": claiming(plain, 2**26),
        "samples beside the tables": with_box(without, (*TABLES[:2], "stsz"), many),
        "samples in the description": _in_description(without, many),
        "samples after an odd box": box("uuid", bytes(24)) + claiming(plain, 2**26),
        "samples in free space": claiming(plain, 2**26).replace(b"moov", b"free"),
        "samples of a box with 64-bit size": claiming(plain, 2**26, stsz=_wide(many)),
        "samples of a box too large": claiming(plain, 2**26, stsz=b"\x7f" + many[1:]),
        "samples in fragments": fragmented[:at] + struct.pack(">II", 0, 2**26) + fragmented[at + 8 :],
        "sound": _sound(plain),
        "edits": with_box(
            plain, (*TABLES[:2], "edts"), box("edts", box("elst", struct.pack(">II", 0, 2**16) + edit * 2**16))
        ),
        "a packed header": start + box("moov", header),
        "a packed header beside": start + header,
        "items": start + box("meta", picture + items) + plain,
        "places of items": start + box("meta", picture + places) + plain,
    }
