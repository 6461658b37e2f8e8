"""Image metrics in HU: RMSE, MAE, bias, PSNR, SSIM inside the body and outside metal. Fixed scales, never the
image's own range."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import ndimage

DATA_RANGE = 2000.0  # HU; fixed, so that figures of different images compare (protocol, section 4)
BODY_HU = -500.0
SSIM_WINDOW = 7
K1, K2 = 0.01, 0.03  # Wang et al. 2004, IEEE TIP 13(4)


def body_mask(reference: np.ndarray) -> np.ndarray:
    """Body of one slice [H, W] in HU: above -500 HU, opened twice, largest component, holes filled. bool [H, W].

    Everything where no body is found (a slice of air): then the metric covers the whole slice.
    """
    mask = ndimage.binary_opening(reference > BODY_HU, iterations=2)
    labels, count = cast(tuple[np.ndarray, int], ndimage.label(mask))
    if count == 0:
        return np.ones(reference.shape, bool)
    sizes = np.bincount(labels.ravel())[1:]
    return np.asarray(ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax())))


def compare(
    image: np.ndarray, reference: np.ndarray, region: np.ndarray, data_range: float = DATA_RANGE
) -> dict[str, float]:
    """RMSE, MAE, bias (image - reference), PSNR and SSIM of one slice [H, W] inside `region` (bool [H, W]).

    Errors in the unit of the image; PSNR in dB with `data_range`. An empty region gives NaN.
    """
    if not region.any():
        return dict.fromkeys(("rmse", "mae", "bias", "psnr_db", "ssim"), float("nan"))
    error = (np.asarray(image, np.float64) - np.asarray(reference, np.float64))[region]
    mse = float(np.mean(error**2))
    return {
        "rmse": mse**0.5,
        "mae": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "psnr_db": psnr(mse, data_range),
        "ssim": float(ssim_map(image, reference, data_range)[region].mean()),
    }


def psnr(mse: float, data_range: float = DATA_RANGE) -> float:
    """10 log10(range^2 / mse) in dB; infinite for equal images."""
    return float("inf") if mse == 0 else float(10 * np.log10(data_range**2 / mse))


def ssim_map(image: np.ndarray, reference: np.ndarray, data_range: float = DATA_RANGE) -> np.ndarray:
    """Structural similarity of each pixel (Wang et al. 2004, eq. 13), 7 x 7 uniform window, unbiased covariances.
    float64 [H, W].

    HU are clipped to [-data_range/2, data_range/2] first, as the protocol asks.
    """
    half = data_range / 2
    x, y = (np.clip(np.asarray(a, np.float64), -half, half) for a in (image, reference))
    mx, my = _mean(x), _mean(y)
    n = SSIM_WINDOW**2
    unbiased = n / (n - 1)
    vx, vy = unbiased * (_mean(x * x) - mx * mx), unbiased * (_mean(y * y) - my * my)
    vxy = unbiased * (_mean(x * y) - mx * my)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def _mean(a: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(a, SSIM_WINDOW)
