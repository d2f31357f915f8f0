"""Settings of random changes of pictures (`stages.tasks._augmentation` carries them out). No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from schemas.base import Contract, Fraction

Share = Annotated[float, Field(gt=0, le=1)]


class PictureChanges(Contract):
    """Random changes of a training picture, drawn evenly and anew for each sample and step."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle, in degrees to either side."""
    translate: Fraction = 0.0
    """Largest shift along each axis, as a share of the side."""
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Smallest and largest factor of size."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Largest shear, in degrees to either side."""
    flip: bool = False
    """Whether half of the pictures are mirrored left to right."""
    crop: tuple[Share, Share] | None = None
    """Smallest and largest share of the picture's area that is cut out, anywhere in it and with sides in a ratio from
    3/4 to 4/3 of the picture's own, and brought to the model's size (Szegedy et al. 2015); left out: no cutting."""
    brightness: Fraction = 0.0
    """Largest relative change of brightness."""
    contrast: Fraction = 0.0
    """Largest relative change of the distance to the picture's mean grey."""
    saturation: Fraction = 0.0
    """Largest relative change of the distance to grey, pixel by pixel; grey pictures have none."""

    @property
    def moves(self) -> bool:
        """Whether pictures are mapped anywhere else."""
        return bool(self.rotate or self.translate or self.scale != (1.0, 1.0) or self.shear or self.flip)

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return bool(self.brightness or self.contrast or self.saturation)

    @model_validator(mode="after")
    def _ordered(self) -> PictureChanges:
        for name in ("scale", "crop"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"`{name}` goes from small to large, not from {bounds[0]:g} to {bounds[1]:g}")
        return self
