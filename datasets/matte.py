"""Separates a photographed hand from the wall behind it by colour."""

import numpy as np

# Natural logarithm of red over blue, by which skin exceeds a wall: none of a pixel that is skin below
# LEAST, all of it above MOST.
LEAST, MOST = 0.13, 0.25


def skin_mattes(images: np.ndarray) -> np.ndarray:
    """How much of each pixel of `images` uint8 `[N, H, W, 3]` is skin: uint8 `[N, H, W]`, 0 to 255.

    For photographs before a wall that is less red than skin, such as those of SIGNS. A shadow keeps
    the ratio of red to blue, where light falls unevenly it changes slowly: the wall's is fitted by a
    plane, from which skin stands out.
    """
    count, height, width = images.shape[:3]
    pixels = images.reshape(count, height * width, 3).astype(np.float32) + 1
    redness = np.log(pixels[..., 0] / pixels[..., 2])
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane = np.stack([np.ones_like(rows), rows, columns], axis=-1).reshape(-1, 3).astype(np.float32)
    wall = np.quantile(redness, 0.2, axis=1, keepdims=True)
    for _ in range(3):  # Each time fewer pixels of the hand are taken for wall.
        is_wall = (redness - wall < LEAST).astype(np.float32)
        products = (is_wall @ (plane[:, :, None] * plane[:, None]).reshape(-1, 9)).reshape(-1, 3, 3)
        # A little of the identity, should hardly any pixel be wall.
        products += 1e-3 * np.eye(3, dtype=np.float32)
        coefficients = np.linalg.solve(products, ((is_wall * redness) @ plane)[..., None])
        wall = coefficients[..., 0] @ plane.T
    share = np.clip((redness - wall - LEAST) / (MOST - LEAST), 0, 1)
    return np.rint(255 * share).astype(np.uint8).reshape(count, height, width)
