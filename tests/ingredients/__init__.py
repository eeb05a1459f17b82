"""Things that modules do and graphs may lose, as blocks of random modules, each of which keeps the shape."""

from tests.ingredients import gradients, in_place, modes, noise, state, weights
from tests.ingredients.block import Maker

INGREDIENTS: dict[str, Maker] = {
    f"{kind.__name__.rpartition('.')[2]}: {name}": maker
    for kind in (gradients, modes, noise, state, in_place, weights)
    for name, maker in kind.MAKERS.items()
}
"""Every ingredient by its name."""
