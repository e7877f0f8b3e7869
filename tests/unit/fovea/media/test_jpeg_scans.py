"""JPEG files of many scans, which are slow to decode for their size."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from fovea.errors import TooLarge
from fovea.media import images
from fovea.media.jpeg_scans import MAX_SCANS, num_scans
from tests.jpeg_scans import progressive

LIMITS = {"max_bytes": 2**24, "max_pixels": 1_000_000}


@pytest.mark.parametrize("more", [0, 1, 50])
def test_scans_are_counted(more: int) -> None:
    few = num_scans(progressive((40, 30)), stop_at=1000)
    assert few >= 5
    assert num_scans(progressive((40, 30), repeat_last_scan=more), stop_at=1000) == few + more


def test_a_baseline_file_has_one_scan_whatever_its_data_and_metadata_look_like() -> None:
    thumbnail = progressive((16, 16), repeat_last_scan=200)
    exif = Image.Exif()
    exif[0x010E] = thumbnail.decode("latin-1")
    file = io.BytesIO()
    noise = Image.effect_noise((200, 200), 100)
    noise.save(file, "JPEG", quality=95, exif=exif, comment=b"\xff\xda" * 200, restart_marker_blocks=2)
    assert num_scans(file.getvalue(), stop_at=1000) == 1
    assert images.decode(file.getvalue(), **LIMITS).size == (200, 200)


def test_a_file_that_is_cut_off_anywhere_is_counted_as_far_as_it_goes() -> None:
    whole = progressive((40, 30))
    counts = [num_scans(whole[:cut], stop_at=1000) for cut in range(len(whole))]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, num_scans(whole, stop_at=1000))


def test_more_scans_than_any_encoder_writes_are_refused_before_decoding() -> None:
    at_limit = MAX_SCANS - num_scans(progressive((40, 30)), stop_at=1000)
    assert images.decode(progressive((40, 30), repeat_last_scan=at_limit), **LIMITS).size == (40, 30)
    with pytest.raises(TooLarge, match="more than 100 scans; at most 100 are accepted"):
        images.decode(progressive((40, 30), repeat_last_scan=at_limit + 1), **LIMITS)


@pytest.mark.parametrize("filler", [b"\x00", b"\xff\x00\xff\xff", b"\xff", b"\xff\xd0"])
def test_bytes_between_the_segments_hide_no_scan(filler: bytes) -> None:
    data = progressive((40, 30), repeat_last_scan=200)
    first = data.index(b"\xff\xda")
    end_of_first = data.index(b"\xff\xc4", first)
    hidden = data[:end_of_first] + b"\xff\xfe\x00\x02" + filler + data[end_of_first:]
    with pytest.raises(TooLarge, match="scans"):
        images.decode(hidden, **LIMITS)
