"""Separates a photographed hand from the wall behind it by colour."""

import numpy as np

# How far the logarithm of red over blue exceeds the wall's. Below MIN_REDNESS nothing of a pixel counts as
# skin, above MAX_REDNESS all of it.
MIN_REDNESS, MAX_REDNESS = 0.13, 0.25


def skin_mattes(images: np.ndarray) -> np.ndarray:
    """Returns how much of each pixel is skin, uint8 `[N, H, W]`: 255 for all, 0 for nothing.

    `images`, uint8 `[N, H, W, 3]`, are photographs before a wall that is less red than skin, such as those of
    SIGNS. Shadows leave the ratio of red to blue as it is, and where light falls unevenly it changes slowly.
    So a plane is fitted to the wall's ratio, and skin stands out from that plane.
    """
    count, height, width = images.shape[:3]
    pixels = images.reshape(count, height * width, 3).astype(np.float32) + 1
    redness = np.log(pixels[..., 0] / pixels[..., 2])
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    plane = np.stack([np.ones_like(rows), rows, columns], axis=-1).reshape(-1, 3).astype(np.float32)
    wall = np.quantile(redness, 0.2, axis=1, keepdims=True)
    for _ in range(3):  # With every round fewer pixels of the hand pass for wall.
        is_wall = (redness - wall < MIN_REDNESS).astype(np.float32)
        products = (is_wall @ (plane[:, :, None] * plane[:, None]).reshape(-1, 9)).reshape(-1, 3, 3)
        # With hardly any wall in sight the equations would have no solution but for this.
        products += 1e-3 * np.eye(3, dtype=np.float32)
        coefficients = np.linalg.solve(products, ((is_wall * redness) @ plane)[..., None])
        wall = coefficients[..., 0] @ plane.T
    share = np.clip((redness - wall - MIN_REDNESS) / (MAX_REDNESS - MIN_REDNESS), 0, 1)
    return np.rint(255 * share).astype(np.uint8).reshape(count, height, width)
