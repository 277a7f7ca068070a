"""Builders of the publishers' layouts from drawn arrays, one per source; all return the root folder."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (24, 32)


def draw(seed: int = 0) -> np.ndarray:
    """Return (24, 32, 3) uint8: a smooth picture that differs by seed."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    picture = np.stack([120 + 4 * x, 60 + 3 * y, 20 + x + y], -1) + 7 * seed
    return (picture % 256).astype(np.uint8)


def draw_mask(seed: int = 0) -> np.ndarray:
    """Return (24, 32) uint8 of 0 and 255: a bar whose place depends on the seed."""
    mask = np.zeros(SIZE, np.uint8)
    mask[5:9, 4 + seed % 8 : 20 + seed % 8] = 255
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write a picture by suffix; GIF, and everything that OpenCV does not write, by Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gif":
        Image.fromarray(pixels).save(path)
    else:
        bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
        path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(bgr))[1].tobytes())
    return path


def write_csv(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def build_drive(root: Path) -> Path:
    for part, number in (("training", 21), ("training", 22), ("test", 1)):
        save(root / part / "images" / f"{number:02d}_{part}.tif", draw(number))
        save(root / part / "1st_manual" / f"{number:02d}_manual1.gif", draw_mask(number))
        save(root / part / "mask" / f"{number:02d}_{part}_mask.gif", np.full(SIZE, 255, np.uint8))
    save(root / "test" / "2nd_manual" / "01_manual2.gif", draw_mask(4))
    return root


def build_chase(root: Path) -> Path:
    for number in (1, 2):
        for side in "LR":
            name = f"Image_{number:02d}{side}"
            save(root / f"{name}.jpg", draw(number))
            save(root / f"{name}_1stHO.png", draw_mask(number))
            save(root / f"{name}_2ndHO.png", draw_mask(number + 3))
    return root


def build_hrf(root: Path) -> Path:
    for name in ("01_dr.JPG", "01_g.jpg", "01_h.jpg", "10_h.jpg"):
        stem = name.partition(".")[0]
        save(root / "images" / name, draw(len(name)))
        save(root / "manual1" / f"{stem}.tif", draw_mask(1))
        save(root / "mask" / f"{stem}_mask.tif", np.repeat(np.full(SIZE, 255, np.uint8)[..., None], 3, -1))
    return root


def build_idrid(root: Path, *, grades: bool = True) -> Path:
    """Write images 01, 43 (no haemorrhages) and, for testing, 55; to grade, 001, 002 and again 001."""
    task = root / "A. Segmentation"
    truths = task / "2. All Segmentation Groundtruths"
    kinds = {
        "MA": "1. Microaneurysms",
        "HE": "2. Haemorrhages",
        "EX": "3. Hard Exudates",
        "OD": "5. Optic Disc",
    }
    for part, number in (("a. Training Set", 1), ("a. Training Set", 43), ("b. Testing Set", 55)):
        save(task / "1. Original Images" / part / f"IDRiD_{number:02d}.jpg", draw(number))
        for suffix, folder in kinds.items():
            if (number, suffix) != (43, "HE"):
                red = np.zeros((*SIZE, 3), np.uint8)
                red[..., 0] = draw_mask(number)  # the publisher's masks are red on black
                save(truths / part / folder / f"IDRiD_{number:02d}_{suffix}.tif", red)
    save(truths / "a. Training Set" / "4. Soft Exudates" / "IDRiD_43_SE.tif", draw_mask(2))
    build_idrid_grading(root)
    if grades:
        write_csv(
            root / "segmentation_grades.csv",
            "segmentation_image,grading_image,dr_grade,dme_risk",
            "IDRiD_01.jpg,IDRiD_002.jpg,3,2",
        )
    return root


def build_idrid_grading(root: Path) -> Path:
    task = root / "B. Disease Grading"
    for part, name in (("a. Training Set", "001"), ("a. Training Set", "002"), ("b. Testing Set", "001")):
        save(task / "1. Original Images" / part / f"IDRiD_{name}.jpg", draw(int(name) + len(part)))
    head = "Image name,Retinopathy grade,Risk of macular edema ,,,,Unnamed: 6"
    truths = task / "2. Groundtruths"
    write_csv(
        truths / "a. IDRiD_Disease Grading_Training Labels.csv",
        head,
        "IDRiD_001,0,0,,,,",
        "IDRiD_002,3,2,,,,",
    )
    write_csv(truths / "b. IDRiD_Disease Grading_Testing Labels.csv", head, "IDRiD_001,4,1,,,,")
    return root


def build_eyepacs(root: Path) -> Path:
    for place in ("train/10_left", "train/10_right", "train/2_left", "test/1_right"):
        save(root / f"{place}.jpeg", draw(len(place)))
    write_csv(root / "trainLabels.csv", "image,level", "10_left,0", "10_right,4", "2_left,2", "99_left,1")
    write_csv(root / "retinopathy_solution.csv", "image,level,Usage", "1_right,3,Private")
    return root


def build_odir(root: Path) -> Path:
    """Write the publisher's table: one row a patient, both eyes."""
    for name in ("0_left.jpg", "0_right.jpg", "7_left.jpg"):
        save(root / "Training Images" / name, draw(len(name)))
    save(root / "preprocessed_images" / "0_left.jpg", draw_mask())
    write_csv(
        root / "full_df.csv",
        "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,"
        "Right-Diagnostic Keywords,N,D",
        "0,69,Female,0_left.jpg,0_right.jpg,cataract,normal fundus,0,0",
        '7,57,Male,7_left.jpg,7_right.jpg,"epiretinal membrane,laser spot",normal fundus,0,0',
    )
    return root


def build_odir_labels(root: Path) -> Path:
    """Write the table of one row an image."""
    save(root / "preprocessed_images" / "3_left.jpg", draw(3))
    save(root / "preprocessed_images" / "3_right.jpg", draw(4))
    write_csv(
        root / "labels.csv",
        "image,patient,eye,age,sex,erm,laser,normal,diagnostic_keywords",
        "3_left.jpg,3,left,70,Male,1,0,0,epiretinal membrane",
        "3_right.jpg,3,right,1,Male,0,0,1,normal fundus",
    )
    return root


def build_fives(root: Path) -> Path:
    for part, name in (("train", "1_A"), ("train", "2_N"), ("test", "1_D"), ("test", "2_G")):
        save(root / part / "Original" / f"{name}.png", draw(len(part)))
        save(root / part / "Ground truth" / f"{name}.png", draw_mask(len(part)))
    return root


def build_hvdropdb(root: Path) -> Path:
    for part in ("HVDROPDB-RIDGE", "HVDROPDB-BV", "HVDROPDB-OD"):
        for camera in ("Neo", "RetCam"):
            save(root / part / f"{camera}_Images" / "5.jpg", draw(5))
            save(root / part / f"{camera}_Masks" / "5.png", draw_mask(5))
    return root


def build_brats(root: Path, *, newer: bool = False, labels: tuple[int, ...] = (1, 2, 4)) -> Path:
    """Write one case: a ball of brain of 16 x 12 x 6 voxels, LPS orientation, tumour in slices 2 and 3."""
    names = ("t1n", "t1c", "t2w", "t2f") if newer else ("t1", "t1ce", "t2", "flair")
    case = "BraTS-GLI-00005-001" if newer else "BraTS20_Training_001"
    join = "-" if newer else "_"
    brain = np.zeros((16, 12, 6), np.int16)
    brain[3:13, 2:10, 1:5] = 1
    rng = np.random.default_rng(3)
    volumes = {name: brain * rng.integers(50, 900, brain.shape).astype(np.int16) for name in names}
    tumour = np.zeros(brain.shape, np.uint8)
    for place, value in enumerate(labels):
        tumour[4 + 2 * place : 6 + 2 * place, 3:6, 2:4] = value
    save_nifti(root / case, {f"{case}{join}{name}": values for name, values in volumes.items()})
    save_nifti(root / case, {f"{case}{join}seg": tumour})
    return root


def save_nifti(folder: Path, volumes: Mapping[str, np.ndarray]) -> None:
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    for name, values in volumes.items():
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{name}.nii.gz")


def build_folder(root: Path) -> Path:
    for name in ("left eye.png", "größe/a.jpg", "größe/b.jpg"):
        save(root / name, draw(len(name)))
    save(root / "vessels" / "left eye.png", draw_mask())
    save(root / "größe" / "disc" / "a.png", draw_mask())
    return root


BUILDERS = {
    "drive": build_drive, "chase": build_chase, "hrf": build_hrf, "idrid": build_idrid, "odir": build_odir,
    "eyepacs": build_eyepacs, "fives": build_fives, "hvdropdb": build_hvdropdb, "brats": build_brats,
    "folder": build_folder,
}  # fmt: skip
