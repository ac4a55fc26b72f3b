"""What pictures and floats become before a network sees them, without a network."""

import pytest
import torch
from PIL import Image

from farkas_exp.machine.errors import UserError
from farkas_exp.trained.preprocessing import Preprocessing, grey


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(("scale", "width", "height"), [(1.0, 40, 20), (2.0, 20, 10)])
def test_the_centre_of_a_picture_is_cut_out_at_its_scale_and_shape(as_file, scale, width, height, tmp_path):
    picture = Image.new("RGB", (40, 20), "black")
    left, top = (40 - width) // 2, (20 - height) // 2
    picture.paste((0, 0, 255), (left, top, left + width, top + height))
    picture.paste((255, 0, 0), (left, top, left + width // 2, top + height))
    picture.save(tmp_path / "picture.png")
    batch = Preprocessing((3, 2, 4), scale=scale)(str(tmp_path / "picture.png") if as_file else picture)
    assert batch.shape == (1, 3, 2, 4)
    red, none, blue = batch[0]
    assert red[:, 0].min() > 0.5 > blue[:, 0].max()
    assert blue[:, 3].min() > 0.5 > red[:, 3].max()
    assert (red + blue).min() > 0.5, "hardly anything of what is around it"
    assert not none.any()


def test_a_jpeg_is_read_no_larger_than_needed_where_the_run_read_its_files_so(tmp_path):
    checked = Image.new("L", (64, 64))
    checked.putdata([255 * ((i // 64 + i) % 2) for i in range(64 * 64)])
    checked.save(tmp_path / "picture.jpg", quality=95)
    drafts, wholes = (Preprocessing((1, 8, 8), draft=draft)(tmp_path / "picture.jpg") for draft in (True, False))
    assert not torch.equal(drafts, wholes)


def test_grey_is_what_pillow_makes_of_a_colour():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 30), (77, 3, 250), (255, 255, 255)]
    for colour in colours:
        pixels = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1)
        assert grey(pixels).item() == Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))


def test_floats_may_leave_their_range_by_rounding_and_there_may_be_none():
    made = Preprocessing((1, 1, 2))
    assert torch.equal(made(torch.tensor([[[[-5e-4, 1 + 5e-4]]]])), torch.tensor([[[[-5e-4, 1 + 5e-4]]]]))
    for values in ([-2e-3, 0.5], [0.5, 1 + 2e-3]):
        with pytest.raises(UserError, match=r"^images: expected floats in \[0, 1\]"):
            made(torch.tensor([[[values]]]))
    assert made(torch.empty(0, 1, 1, 2)).shape == (0, 1, 1, 2)
