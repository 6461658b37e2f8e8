"""Makes the tables of this folder: `python Resources/Physics/make_tables.py`.

Needs xraydb and spekpy, which nothing else in the product needs.

materials.csv     name, title, density (g/cm3), composition by weight
attenuation.csv   mass attenuation in cm2/g with coherent scattering, 10 ... 150 keV, step 1 keV (xraydb, Elam tables)
spectra.csv       photons per keV bin (centred on whole keV, each column sums to 1), SpekPy

Spectra: tungsten anode of 12 degrees behind 8 mm aluminium at 80, 100, 120 and 140 kV ("kvp80" ... "kvp140"), and
"field120", the stand-in for the 120 kV spectrum of the field's simulations (ADN, SynDeepLesion). That table is not
copied; the stand-in is a SpekPy spectrum above 20 keV whose tube voltage and filter (117 kV, 3.2 mm aluminium) were
chosen so that the mean energy is 55.1 keV as published and the cubic water correction fitted to it comes close to
the published one (0.80370, 0.023014, -0.0008444).
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import spekpy
import xraydb

HERE = Path(__file__).resolve().parent
ENERGIES_KEV = np.arange(10, 151)
BONE = {"H": .034, "C": .155, "N": .042, "O": .435, "Na": .001, "Mg": .002, "P": .103, "S": .003, "Ca": .225}
MATERIALS = {  # name: (title, g/cm3, weight fractions); tissues: ICRU report 44
    "air": ("air", 0.001205, {"C": .000124, "N": .755268, "O": .231781, "Ar": .012827}),
    "water": ("water", 1.0, {"H": .111898, "O": .888102}),
    "adipose": ("adipose tissue", 0.95, {"H": .114, "C": .598, "N": .007, "O": .278, "Na": .001, "S": .001,
                                           "Cl": .001}),
    "soft_tissue": ("soft tissue", 1.06, {"H": .102, "C": .143, "N": .034, "O": .708, "Na": .002, "P": .003, "S": .003,
                                          "Cl": .002, "K": .003}),
    "muscle": ("skeletal muscle", 1.05, {"H": .102, "C": .143, "N": .034, "O": .710, "Na": .001, "P": .002, "S": .003,
                                         "Cl": .001, "K": .004}),
    "cortical_bone": ("cortical bone", 1.92, BONE),
    "iodine": ("iodine (contrast medium)", 4.93, {"I": 1.0}),
    "pmma": ("acrylic bone cement (PMMA)", 1.19, {"H": .080538, "C": .599848, "O": .319614}),
    "peek": ("polyether ether ketone", 1.32, {"H": .041955, "C": .791559, "O": .166486}),
    "zirconia": ("zirconia ceramic", 6.05, {"Zr": .74, "O": .26}),
    "aluminium": ("aluminium", 2.699, {"Al": 1.0}),
    "titanium": ("titanium", 4.51, {"Ti": 1.0}),
    "ti6al4v": ("titanium alloy Ti-6Al-4V", 4.43, {"Ti": .90, "Al": .06, "V": .04}),
    "nitinol": ("nickel-titanium (nitinol)", 6.45, {"Ni": .555, "Ti": .445}),
    "iron": ("iron", 7.874, {"Fe": 1.0}),
    "steel316l": ("stainless steel 316L", 8.0, {"Fe": .655, "Cr": .17, "Ni": .12, "Mo": .025, "Mn": .02, "Si": .01}),
    "cocrmo": ("cobalt-chromium-molybdenum", 8.3, {"Co": .65, "Cr": .28, "Mo": .06, "Mn": .005, "Si": .005}),
    "copper": ("copper", 8.96, {"Cu": 1.0}),
    "silver": ("silver", 10.49, {"Ag": 1.0}),
    "amalgam": ("dental amalgam", 11.6, {"Hg": .50, "Ag": .30, "Sn": .14, "Cu": .06}),
    "tantalum": ("tantalum", 16.65, {"Ta": 1.0}),
    "tungsten": ("tungsten", 19.35, {"W": 1.0}),
    "gold": ("gold", 19.3, {"Au": 1.0}),
    "platinum": ("platinum", 21.45, {"Pt": 1.0}),
}
SPECTRA = {  # name: (tube voltage in kV, aluminium in mm, lowest energy kept in keV)
    "kvp80": (80, 8.0, 10), "kvp100": (100, 8.0, 10), "kvp120": (120, 8.0, 10), "kvp140": (140, 8.0, 10),
    "field120": (117, 3.2, 20)}


def mass_attenuation(composition: dict[str, float]) -> np.ndarray:
    """Mixture rule: sum of weight fraction times mu/rho of the element, cm2/g at ENERGIES_KEV."""
    return sum(weight * np.asarray(xraydb.mu_elam(element, ENERGIES_KEV * 1e3, kind="total"))
               for element, weight in composition.items())


def spectrum(kilovolt: float, aluminium_mm: float, lowest_kev: float) -> np.ndarray:
    """Photons per 1 keV bin centred on ENERGIES_KEV, normalised to 1: 0.1 keV bins of SpekPy added up."""
    tube = spekpy.Spek(kvp=kilovolt, th=12, dk=0.1)
    tube.filter("Al", aluminium_mm)
    energy, fluence = tube.get_spectrum()
    edges = np.append(ENERGIES_KEV - 0.5, ENERGIES_KEV[-1] + 0.5)
    photons = np.histogram(energy, bins=edges, weights=fluence)[0]
    photons *= np.greater_equal(ENERGIES_KEV, lowest_kev)
    return photons / photons.sum()


def write(name: str, header: list[str], rows: list[list[str]]) -> None:
    with open(HERE / name, "w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    composition = {name: " ".join(f"{e} {w:g}" for e, w in mix.items()) for name, (_, _, mix) in MATERIALS.items()}
    write("materials.csv", ["name", "title", "density_g_cm3", "composition"],
          [[name, title, f"{density:g}", composition[name]] for name, (title, density, _) in MATERIALS.items()])
    tables = [mass_attenuation(mix) for _, _, mix in MATERIALS.values()]
    write("attenuation.csv", ["energy_keV", *MATERIALS],
          [[str(e), *(f"{t[i]:.6g}" for t in tables)] for i, e in enumerate(ENERGIES_KEV)])
    spectra = [spectrum(*setting) for setting in SPECTRA.values()]
    write("spectra.csv", ["energy_keV", *SPECTRA],
          [[str(e), *(f"{s[i]:.6g}" for s in spectra)] for i, e in enumerate(ENERGIES_KEV)])


if __name__ == "__main__":
    main()
