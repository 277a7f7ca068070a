import cv2
import numpy as np
import pytest

from fundusforge.prepare.field import Square
from fundusforge.prepare.text import find_text, view_of

COLOURS = {
    "white": (255, 255, 255),
    "grey": (215, 215, 215),
    "black": (0, 0, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
}


@pytest.fixture(scope="module")
def eye(fundus):
    return fundus(1024, seed=2)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("scale", [0.7, 1.2, 2.5])
def test_burned_in_text_is_found(eye, colour, scale):
    image = eye["image"].copy()
    place, thickness = (220, 620), max(1, round(1.6 * scale))
    cv2.putText(
        image, "DOE 12/03/71", place, cv2.FONT_HERSHEY_SIMPLEX, scale, COLOURS[colour], thickness, cv2.LINE_AA
    )
    row = find_text(image, eye["field_of_view"])
    assert row is not None and row.letters >= 4
    assert row.left >= 200 and row.bottom <= 660


def test_after_jpeg(eye):
    image = eye["image"].copy()
    cv2.putText(image, "4711 JANE", (300, 500), cv2.FONT_HERSHEY_DUPLEX, 1.0, (255, 255, 255), 2, cv2.LINE_AA)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    assert find_text(cv2.imdecode(data, cv2.IMREAD_COLOR), eye["field_of_view"]) is not None


@pytest.mark.parametrize("seed", range(4))
def test_a_retina_is_not_text(fundus, seed):
    drawing = fundus(1024, seed=seed)
    assert find_text(drawing["image"], drawing["field_of_view"]) is None


def test_text_outside_does_not_count(eye):
    image = eye["image"].copy()
    cv2.putText(image, "DOE", (2, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
    assert find_text(image, eye["field_of_view"]) is None


def test_soft_spots_in_a_row_are_not_letters(eye):
    image = eye["image"].astype(np.float32)
    spots = np.zeros(image.shape[:2], np.float32)
    for x in range(300, 700, 30):
        cv2.circle(spots, (x, 500), 9, 1.0, -1)
    image += cv2.GaussianBlur(spots, (0, 0), 4)[..., None] * np.array([40, 110, 60])
    assert find_text(image.clip(0, 255).astype(np.uint8), eye["field_of_view"]) is None


def test_view_picks_every_nth_pixel_of_the_square():
    image = np.zeros((3000, 4000, 3), np.uint8)
    image[1:, 1:] = 7
    view = view_of(image, Square(left=500, top=-50, side=3100))
    assert view.shape == (1033, 1033, 3) and not view[:16].any() and (view[20:1000] == 7).all()
