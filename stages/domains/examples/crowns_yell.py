"""Tree crowns in Yellowstone: 853 boxes in two photographs."""

from __future__ import annotations

from stages.domains.examples._crowns import LICENCE, member, tiles
from stages.domains.examples.base import Example

EXAMPLE = Example(
    name="crowns-yell",
    licence=LICENCE,
    members=(
        member(
            "2019_YELL_2_528000_4978000_image_crop2.png",
            "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
        ),
        member(
            "2019_YELL_2_528000_4978000_image_crop2.xml",
            "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
        ),
        member(
            "2019_YELL_2_541000_4977000_image_crop.png",
            "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
        ),
        member(
            "2019_YELL_2_541000_4977000_image_crop.xml",
            "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
        ),
    ),
    parse=tiles,
    columns=("image", "boxes"),
)
