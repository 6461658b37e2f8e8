"""X-ray spectra, materials and the polychromatic measurement of line integrals.

Tables come from `Resources/Physics` (made by `make_tables.py` there). Energies are in keV, attenuation in 1/mm, line
integrals are dimensionless and given at a reference energy (70 keV): a material m with line integral p_m at the
reference energy contributes p_m * r_m(E) at energy E, r_m(E) = (mu/rho)_m(E) / (mu/rho)_m(reference).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..paths import resources

REFERENCE_KEV = 70.0
MU_WATER_70 = 0.0192            # 1/mm, the field's rounded constant at 70 keV (the table has 0.01929)
DETECTORS = ("photon", "energy")


@dataclass(frozen=True)
class Material:
    """A homogeneous material: density in g/cm3 and mass attenuation in cm2/g over energies in keV."""

    name: str
    title: str
    density: float
    energies_kev: tuple[float, ...]
    mass_cm2_g: tuple[float, ...]

    def mass_attenuation(self, energies_kev: np.ndarray | float) -> np.ndarray:
        """mu/rho in cm2/g, log-log interpolation of the table (exact at whole keV)."""
        energy = np.asarray(energies_kev, dtype=np.float64)
        if energy.min() < self.energies_kev[0] or energy.max() > self.energies_kev[-1]:
            raise ValueError(f"The attenuation table spans {self.energies_kev[0]:g} to {self.energies_kev[-1]:g} keV, "
                             f"but {energy.min():g} to {energy.max():g} keV were asked for.")
        return np.exp(np.interp(np.log(energy), np.log(self.energies_kev), np.log(self.mass_cm2_g)))

    def attenuation(self, energies_kev: np.ndarray | float) -> np.ndarray:
        """Linear attenuation coefficient of the solid in 1/mm."""
        return self.mass_attenuation(energies_kev) * self.density / 10.0

    def relative(self, energies_kev: np.ndarray | float, reference_kev: float = REFERENCE_KEV) -> np.ndarray:
        """r(E): attenuation at E over attenuation at the reference energy."""
        return self.mass_attenuation(energies_kev) / self.mass_attenuation(reference_kev)


@dataclass(frozen=True)
class Spectrum:
    """Photons per energy bin, sum 1; energies in keV are the bin centres."""

    name: str
    energies_kev: tuple[float, ...]
    photons: tuple[float, ...]

    @property
    def mean_kev(self) -> float:
        return float(np.dot(self.energies_kev, self.photons))

    def weights(self, detector: str = "photon") -> np.ndarray:
        """Share of the signal per energy, sum 1: photon counting I(E) or energy integrating E I(E)."""
        if detector not in DETECTORS:
            raise ValueError(f"The detector is '{detector}', but must be one of {', '.join(DETECTORS)}.")
        signal = np.asarray(self.photons) * (np.asarray(self.energies_kev) if detector == "energy" else 1.0)
        return signal / signal.sum()


def materials() -> dict[str, Material]:
    """All tabulated materials by name."""
    return _materials(resources() / "Physics")


def material(name: str) -> Material:
    """One material by name; ValueError lists the known names."""
    known = materials()
    if name not in known:
        raise ValueError(f"The material '{name}' is unknown. Choose one of: {', '.join(known)}.")
    return known[name]


def spectra() -> dict[str, Spectrum]:
    """All tabulated tube spectra by name (kvp80, kvp100, kvp120, kvp140, field120)."""
    return _spectra(resources() / "Physics")


def spectrum(name: str) -> Spectrum:
    """One tabulated spectrum by name; ValueError lists the known names."""
    known = spectra()
    if name not in known:
        raise ValueError(f"The spectrum '{name}' is unknown. Choose one of: {', '.join(known)}.")
    return known[name]


def monochromatic(energy_kev: float = REFERENCE_KEV) -> Spectrum:
    """A spectrum of a single line: no beam hardening."""
    return Spectrum(f"mono{energy_kev:g}", (float(energy_kev),), (1.0,))


def polychromatic(lines: Mapping[str, Tensor], tube: Spectrum, *, detector: str = "photon",
                  reference_kev: float = REFERENCE_KEV) -> Tensor:
    """p = -ln( sum_E w(E) exp(-sum_m p_m r_m(E)) ), w the detector-weighted spectrum (metal note, section 3.5).

    lines : material name -> line integrals at the reference energy, tensors of one shape.
    Returns a tensor of that shape and type; transmission is kept above the smallest normal number."""
    weights = tube.weights(detector)
    relative = {name: material(name).relative(np.asarray(tube.energies_kev), reference_kev) for name in lines}
    total: Tensor | None = None
    for i in np.flatnonzero(weights):
        exponent: Tensor | None = None
        for name, line in lines.items():
            part = line * -float(relative[name][i])
            exponent = part if exponent is None else exponent.add_(part)
        assert exponent is not None, "polychromatic needs at least one material"
        part = exponent.exp_().mul_(float(weights[i]))
        total = part if total is None else total.add_(part)
    assert total is not None, "a spectrum has at least one line"
    return -torch.log(total.clamp_(min=torch.finfo(total.dtype).tiny))


@lru_cache(maxsize=32)
def water_correction(tube: Spectrum, *, detector: str = "photon", reference_kev: float = REFERENCE_KEV,
                     length_mm: float = 500.0, step_mm: float = 0.5, order: int = 3) -> tuple[float, ...]:
    """Coefficients c of p'' = c1 p + c2 p^2 + ... that make water linear (metal note, section 3.7).

    Least squares over water of 0 ... length_mm against the line integral at the reference energy."""
    length = np.arange(0, length_mm + step_mm / 2, step_mm)
    linear = length * material("water").attenuation(reference_kev)
    measured = polychromatic({"water": torch.from_numpy(linear)}, tube, detector=detector,
                             reference_kev=reference_kev).numpy()
    powers = np.stack([measured ** k for k in range(1, order + 1)], axis=1)
    return tuple(float(c) for c in np.linalg.lstsq(powers, linear, rcond=None)[0])


def correct_water(measured: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Apply the water correction: Horner's rule without a constant term. Any shape, dimensionless."""
    corrected = torch.zeros_like(measured)
    for c in reversed(coefficients):
        corrected = (corrected + c) * measured
    return corrected


def detect(measured: Tensor, photons: float, generator: torch.Generator, *, background: Tensor | float = 0.0,
           electronic: float = 0.0) -> Tensor:
    """Photon noise, additive background and electronic noise (metal note, section 3.6).

    N = Poisson(round(I0 e^-p) + background) + normal(0, electronic), at least 1; p' = -ln(N / I0).
    measured : line integrals, any shape; photons : I0 per ray; background in photons; electronic in photons (sigma).
    Random numbers are drawn on the CPU from `generator`. Returns the shape and type of `measured`."""
    expected = torch.round(photons * torch.exp(-measured.detach().to("cpu", torch.float64)))
    counts = torch.poisson(expected + torch.as_tensor(background, dtype=torch.float64).cpu(), generator=generator)
    if electronic > 0:
        counts = counts + electronic * torch.randn(counts.shape, generator=generator, dtype=torch.float64)
    return -torch.log(counts.clamp(min=1.0) / photons).to(measured.device, measured.dtype)


def _columns(path: Path) -> tuple[list[str], np.ndarray]:
    """Header names and values [rows, columns] of a numeric CSV file."""
    with open(path, newline="", encoding="ascii") as file:
        header = next(csv.reader(file))
    return header, np.loadtxt(path, delimiter=",", skiprows=1)


@lru_cache(maxsize=2)
def _materials(folder: Path) -> dict[str, Material]:
    header, values = _columns(folder / "attenuation.csv")
    with open(folder / "materials.csv", newline="", encoding="ascii") as file:
        facts = {row["name"]: row for row in csv.DictReader(file)}
    energies = tuple(values[:, 0])
    return {name: Material(name, facts[name]["title"], float(facts[name]["density_g_cm3"]), energies,
                           tuple(values[:, i])) for i, name in enumerate(header) if i > 0}


@lru_cache(maxsize=2)
def _spectra(folder: Path) -> dict[str, Spectrum]:
    header, values = _columns(folder / "spectra.csv")
    energies = tuple(values[:, 0])
    return {name: Spectrum(name, energies, tuple(values[:, i])) for i, name in enumerate(header) if i > 0}
