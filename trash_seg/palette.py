"""One colour for each class, the same in every picture and page. Standard library only."""

import colorsys

GOLDEN_RATIO = 0.618033988749895


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """RGB in [0, 255] by class index; the background, index 0, is black.

    Hues step by the golden ratio, so that neighbours in the list differ most.
    """
    colors = [(0, 0, 0)]
    for index in range(num_classes - 1):
        hue = (0.02 + index * GOLDEN_RATIO) % 1
        value, saturation = (1.0, 0.75) if index % 2 == 0 else (0.8, 1.0)
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors
