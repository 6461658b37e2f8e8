"""Declarations of the articles of the special issue that aren't built yet: what they will take and give.

Panels and pages list them with the state "planned", so that nobody looks for a method in vain; none can be run. When
a method is built, its entry moves to a file of its own.
"""

from __future__ import annotations

from ..method import Citation, Input, Method, Output

JOURNAL = "IEEE Transactions on Medical Imaging 43(10)"


def _planned(
    id: str,
    name: str,
    module: str,
    task: str,
    summary: str,
    authors: str,
    title: str,
    inputs: tuple[Input, ...],
    outputs: tuple[Output, ...],
    pages: str = "",
    doi: str = "",
) -> Method:
    journal = f"{JOURNAL}, {pages}" if pages else JOURNAL
    citation = Citation(authors, title, journal, 2024, doi)
    return Method(id, name, module, task, "planned", summary, citation, inputs, outputs)


PROJECTIONS = (Input("sinogram", "projections", help="Line integrals with the geometry of the scan."),)
ENERGIES = (Input("sinogram", "projections", help="Line integrals of each energy bin with geometry and spectra."),)
K_SPACE = (Input("kspace", "complex volume", help="Multi-coil Cartesian k-space with its mask."),)
CT = Input("ct", unit="HU", help="CT in Hounsfield units.")
RECONSTRUCTION = (
    Output("reconstruction", unit="HU", help="The reconstructed CT."),
    Output("std", unit="HU", display="overlay", when="samples>1", of="reconstruction", help="Spread over the samples."),
)
MR = (Output("reconstruction", help="The reconstructed MR image."),)
COMPLETED = Output("completed", "projections", display="none", help="The completed line integrals.")

METHODS = (
    _planned(
        "a01", "DCDS", "reconstruction", "sparse-view CT",
        "Reconstructs CT from few views: an image prior and a sinogram prior improve one another at every noise level.",
        "Li, Z. and others",
        "Dual-Domain Collaborative Diffusion Sampling for Multi-Source Stationary Computed Tomography "
        "Reconstruction",
        PROJECTIONS, (*RECONSTRUCTION, COMPLETED), "3398-3411", "10.1109/TMI.2024.3420411",
    ),
    _planned(
        "a02", "SWORD", "reconstruction", "sparse-view CT",
        "Completes a sparse-view sinogram stage by stage in the wavelet domain, then reconstructs the CT.",
        "Xu, K. and Lu, S. and Huang, B. and Wu, W. and Liu, Q.",
        "Stage-by-stage Wavelet Optimization Refinement Diffusion Model for Sparse-View CT Reconstruction",
        PROJECTIONS, (*RECONSTRUCTION, COMPLETED), "3412-3424", "10.1109/TMI.2024.3355455",
    ),
    _planned(
        "a03", "Multi-channel SGM", "reconstruction", "spectral CT",
        "Sparse-view spectral CT and material maps with one score model over energy images and tissue images.",
        "Liu, Y. and Zhou, X. and Wei, C. and Xu, Q.",
        "Sparse-View Spectral CT Reconstruction and Material Decomposition Based on Multi-Channel SGM",
        ENERGIES, (
            Output("energies", unit="HU", help="One CT per energy."),
            Output("materials", display="overlay", help="Amount of each material."),
        ),
        "3425-3435", "10.1109/TMI.2024.3413085",
    ),
    _planned(
        "a04", "WISM", "reconstruction", "limited-angle CT",
        "Reconstructs CT from a limited angle with score models of the image and of its wavelet bands.",
        "Zhang, J. and Mao, H. and Wang, X. and Guo, Y. and Wu, W.",
        "Wavelet-Inspired Multi-Channel Score-Based Model for Limited-Angle CT Reconstruction",
        PROJECTIONS, RECONSTRUCTION, "3436-3448", "10.1109/TMI.2024.3367167",
    ),
    _planned(
        "a05", "TIFA", "reconstruction", "limited-angle CT",
        "Reconstructs CT from a limited angle in about ten steps by jumping ahead and going back in time.",
        "Wang, Y. and Li, Z. and Wu, W.",
        "Time-Reversion Fast-Sampling Score-Based Model for Limited-Angle CT Reconstruction",
        PROJECTIONS, RECONSTRUCTION, "3449-3460", "10.1109/TMI.2024.3418838",
    ),
    _planned(
        "a06", "MOGM", "reconstruction", "ultra-sparse-view CT",
        "Reconstructs CT from 60 down to 7 views with an iterative solver inside the reverse diffusion.",
        "Wu, W. and Pan, J. and Wang, Y. and Wang, S. and Zhang, J.",
        "Multi-Channel Optimization Generative Model for Stable Ultra-Sparse-View CT Reconstruction",
        PROJECTIONS, RECONSTRUCTION, "3461-3475", "10.1109/TMI.2024.3376414",
    ),
    _planned(
        "a07", "PRECISION", "reconstruction", "photon-counting CT",
        "Samples images of basis materials from photon-counting data under the scanner's physics.",
        "Chen, R. and Zhang, Z. and Quan, G. and Du, Y. and Chen, Y. and Li, Y.",
        "PRECISION: A Physics-Constrained and Noise-Controlled Diffusion Model for Photon Counting Computed Tomography",
        ENERGIES,
        (Output("basis", help="Basis images."), Output("elements", display="overlay", help="Elements per voxel.")),
        "3476-3489", "10.1109/TMI.2024.3440651",
    ),
    _planned(
        "a08", "CM-DM", "reconstruction", "undersampled MRI",
        "Reconstructs MR images from highly undersampled k-space with priors of several frequency ranges.",
        "Guan, Y. and Yu, C. and Cui, Z. and Zhou, H. and Liu, Q.",
        "Correlated and Multi-Frequency Diffusion Modeling for Highly Under-Sampled MRI Reconstruction", K_SPACE, MR,
    ),
    _planned(
        "a09", "Heat diffusion in k-space", "reconstruction", "undersampled MRI",
        "Interpolates missing high frequencies of k-space by reversing a heat equation.",
        "Cui, Z. and others",
        "Physics-Informed DeepMRI: k-Space Interpolation Meets Heat Diffusion", K_SPACE, MR, "3503-3520",
    ),
    _planned(
        "a12", "Dehazing", "reconstruction", "ultrasound dehazing",
        "Removes multipath haze from ultrasound by sampling tissue and haze jointly.",
        "Stevens, T. and Meral, F. and Yu, J. and Apostolakis, I. and Robert, J. and van Sloun, R.",
        "Dehazing Ultrasound Using Diffusion Models",
        (Input("rf", help="Beamformed radio-frequency lines (frames, depth, lines)."),),
        (Output("dehazed", help="The lines without haze."),),
        "3546-3558", "10.1109/TMI.2024.3363460",
    ),
    _planned(
        "a13", "D-BIQA", "reconstruction", "image quality",
        "Scores every CT slice as radiologists would, without a reference image.",
        "Shi, Y. and Xia, W. and Wang, G. and Mou, X.",
        "Blind CT Image Quality Assessment Using DDPM-Derived Content and Transformer-Based Evaluator",
        (CT,),
        (
            Output("scores", "table", display="plot", help="Score of each slice, 0 to 4."),
            Output("dissimilarity", display="overlay", help="Where the slice differs from its clean estimate."),
        ),
        "3559-3569",
    ),
    _planned(
        "a15", "GenPSM", "synthesis", "labelled OCT images",
        "Makes retinal layer masks and the OCT images that belong to them, for training segmentation.",
        "Huang, K. and others",
        "Diverse Data Generation for Retinal Layer Segmentation With Potential Structure Modeling",
        (Input("condition", "text", help="Disease class and degree of deformation."),),
        (
            Output("image", help="The OCT image."),
            Output("layers", "segmentation", display="overlay", help="Its retinal layers."),
        ),
    ),
    _planned(
        "a16", "SCG", "synthesis", "counterfactual images",
        "Shows how an image would look without its finding, and where the two differ.",
        "Wang, K. and Chen, Z. and Zhu, M. and Li, Z. and Weng, J. and Gu, T.",
        "Score-Based Counterfactual Generation for Interpretable Medical Image Classification and Lesion Localization",
        (Input("image", help="Radiograph or slice."),),
        (
            Output("counterfactual", help="The image without its finding."),
            Output("lesion", display="overlay", help="Where both differ."),
        ),
        "3596-3607", "10.1109/TMI.2024.3375357",
    ),
    _planned(
        "a17", "Spatial context", "synthesis", "assessment of generators",
        "Counts how often single images of a generator break the known rules of their kind.",
        "Deshpande, R. and Özbey, M. and Li, H. and Anastasio, M. A. and Brooks, F. J.",
        "Assessing the Capacity of a Denoising Diffusion Probabilistic Model to Reproduce Spatial Context",
        (Input("images", "file", help="Folder of generated images."),),
        (Output("report", "table", display="table", help="Rules broken, per image and in all."),),
        "3608-3620",
    ),
    _planned(
        "a18", "DoseDiff", "synthesis", "radiotherapy dose prediction",
        "Predicts the dose that a good plan would give, from CT, structures and prescription.",
        "Zhang, Y. and Li, C. and Zhong, L. and Chen, Z. and Yang, W. and Wang, X.",
        "DoseDiff: Distance-Aware Diffusion Model for Dose Prediction in Radiotherapy",
        (CT, Input("structures", "structures", help="Targets and organs at risk.")),
        (
            Output("dose", unit="Gy", display="overlay", help="Dose of a good plan."),
            Output("dvh", "table", display="plot", help="Dose-volume histograms of the structures."),
        ),
        "3621-3633", "10.1109/TMI.2024.3383423",
    ),
    _planned(
        "a19", "PST-Diff", "synthesis", "virtual staining",
        "Turns an H&E tile into a virtual immunohistochemistry tile of the same tissue.",
        "He, Y. and others",
        "PST-Diff: Achieving High-Consistency Stain Transfer by Diffusion Models With Pathological and Structural "
        "Constraints",
        (Input("he", "vector volume", help="H&E tile, 8-bit RGB."),),
        (Output("ihc", "vector volume", help="The virtual stain, 8-bit RGB."),),
    ),
    _planned(
        "a20", "MedSyn", "synthesis", "text to 3D chest CT",
        "Makes a 3D chest CT with lobes, airways and vessels from a radiology sentence.",
        "Xu, Y. and Sun, L. and Peng, W. and Jia, S. and Morrison, K. and Perer, A. and Zandifar, A. and "
        "Visweswaran, S. and Eslami, M. and Batmanghelich, K.",
        "MedSyn: Text-Guided Anatomy-Aware Synthesis of High-Fidelity 3-D CT Images",
        (Input("prompt", "text", help="What the chest CT should show."),),
        (
            Output("ct", unit="HU", help="The chest CT."),
            Output("anatomy", "segmentation", display="overlay", help="Its lobes, airways and vessels."),
        ),
        doi="10.1109/TMI.2024.3415032",
    ),
)  # fmt: skip
