import cv2
import numpy as np
import pytest

from fundusforge.prepare.field import Square
from fundusforge.prepare.picture import Unfit, enhance, prepare_contrast, prepare_image, prepare_mask


def test_cuts_and_centres_the_field(fundus):
    drawing = fundus(320, seed=1)
    wide = cv2.copyMakeBorder(drawing["image"], 30, 90, 200, 10, cv2.BORDER_CONSTANT)
    prepared = prepare_image(wide, size=128)
    assert prepared.image.shape == (128, 128, 3) and prepared.field_of_view.shape == (128, 128)
    assert set(np.unique(prepared.field_of_view)) == {0, 255}
    assert (prepared.field.x, prepared.field.y) == pytest.approx((360, 190), abs=1.5)
    assert prepared.square.side == pytest.approx(2 * 0.46 * 320, abs=4)
    assert not prepared.image[prepared.field_of_view == 0].any()


def test_text_beside_the_field_becomes_black(fundus):
    image = fundus(320)["image"].copy()
    cv2.putText(image, "SMITH", (2, 24), cv2.FONT_HERSHEY_PLAIN, 1.2, (255, 255, 255), 2)
    corner = prepare_image(image, size=320).image[:30, :40]
    assert not corner.any()


def test_takes_the_publishers_mask(fundus):
    drawing = fundus(320)
    mask = drawing["field_of_view"].copy()
    mask[:80] = 0
    prepared = prepare_image(drawing["image"], mask, size=160)
    assert not prepared.image[:30].any() and prepared.field_of_view[40:].any()
    with pytest.raises(Unfit, match="field of view is 100x100 pixels, the picture 320x320"):
        prepare_image(drawing["image"], np.zeros((100, 100), np.uint8))
    with pytest.raises(Unfit, match="is empty"):
        prepare_image(drawing["image"], np.zeros((320, 320), np.uint8))


def test_no_field():
    with pytest.raises(Unfit, match="not found"):
        prepare_image(np.full((300, 300, 3), 128, np.uint8))


def test_masks_follow_their_picture_and_thin_lines_survive():
    mask = np.zeros((800, 600), np.uint8)
    mask[400, 50:550] = 255
    square = Square(left=-100, top=0, side=800)
    small = prepare_mask(mask, square, shape=(800, 600), size=100)
    assert small[50, 20:80].all() and small.sum() <= 255 * 70 * 2
    with pytest.raises(Unfit, match="mask is 600x800 pixels, the picture 500x500"):
        prepare_mask(mask, square, shape=(500, 500), size=100)


def test_enhancement(fundus):
    image = fundus(128)["image"]
    assert enhance(image, gamma=None, clahe=False) is image
    assert (
        enhance(image, gamma=2.0, clahe=False).mean()
        > image.mean()
        > enhance(image, gamma=0.5, clahe=False).mean()
    )
    assert enhance(image, gamma=None, clahe=True)[..., 1].std() > image[..., 1].std()


def test_contrasts_are_padded_with_their_background():
    values = np.full((60, 80), -1.5, np.float32)
    values[20:40, 30:60] = np.linspace(0, 4, 600, dtype=np.float32).reshape(20, 30)
    out = prepare_contrast(values, size=80, zscore=False)
    np.testing.assert_allclose(out[10:70], values, atol=1e-6)
    assert (out[:10] == -1.5).all()
    normal = prepare_contrast(values, size=80, zscore=True)
    inside = normal[10:70][values != -1.5]
    assert inside.mean() == pytest.approx(0, abs=1e-5) and inside.std() == pytest.approx(1, abs=1e-4)
    with pytest.raises(Unfit, match="empty"):
        prepare_contrast(np.zeros((8, 8), np.float32), size=8, zscore=True)
