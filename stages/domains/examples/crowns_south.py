"""Tree crowns at Ordway-Swisher (Florida, 61 boxes) and Soaproot Saddle (California, 37), a photograph each."""

from __future__ import annotations

from stages.domains.examples._crowns import LICENCE, member, tiles
from stages.domains.examples.base import Example

EXAMPLE = Example(
    name="crowns-south",
    licence=LICENCE,
    members=(
        member("OSBS_029.png", "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee"),
        member("OSBS_029.xml", "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c"),
        member("SOAP_061.png", "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424"),
        member("SOAP_061.xml", "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c"),
    ),
    parse=tiles,
    columns=("image", "boxes"),
)
