"""What a clip is: paths, segments, arrays and pairs, how they are read, and their labels."""

from skanopatch.audio.clips import (
    Clip,
    Segment,
    as_clip_list,
    clip_name,
    clip_state,
    file_names,
    file_of,
    file_state,
    is_pair,
    is_path,
    printable_path,
)
from skanopatch.audio.reading import (
    clip_duration,
    clip_format,
    files_in_writing,
    load_clip,
    read_clip,
    split_recording,
)
from skanopatch.audio.samples import fit_length, masked_to_nan, pcm_to_float, refuse_masked

__all__ = [
    "Clip",
    "Segment",
    "as_clip_list",
    "clip_duration",
    "clip_format",
    "clip_name",
    "clip_state",
    "file_names",
    "file_of",
    "file_state",
    "files_in_writing",
    "fit_length",
    "is_pair",
    "is_path",
    "load_clip",
    "masked_to_nan",
    "pcm_to_float",
    "printable_path",
    "read_clip",
    "refuse_masked",
    "split_recording",
]
