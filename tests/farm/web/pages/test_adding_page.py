"""Adding models and LoRAs in a real browser: what a file is is told before it is sent, and then the farm has it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Request, expect

from farm import keys
from farm.bucket.loras import LORAS
from farm.bucket.models import MODELS
from farm.bucket.storage import Storage
from farm.client import FarmClient, loras
from farm.client import models as keeping
from tests.farm.client.test_loras import a_file, sha256
from tests.farm.web.pages.conftest import PHONE, Pages, Said, Show
from tests.models_on_disk import checkpoint, write_weights
from tests.waiting import eventually

pytestmark = pytest.mark.long

KIB = 2**10


@pytest.fixture(autouse=True)
def an_empty_shelf(client: FarmClient) -> Iterator[None]:
    """The bucket is of the whole session."""
    client.check_bucket()
    yield
    for key in [*client.storage.list(keys.LORAS), *client.storage.list(keys.MODELS)]:
        client.storage.delete(key.key)


def adding(page: Page, what: str) -> Locator:
    """The form by which something is added, open."""
    place = page.locator("details").filter(has_text=f"Add a {what}")
    place.locator("summary").click()
    return place


def puts(page: Page) -> list[str]:
    """The files that the page sends, from now on."""
    found: list[str] = []

    def asked(request: Request) -> None:
        if request.method == "PUT":
            found.append(request.url)

    page.on("request", asked)
    return found


def a_flux_lora(path: Path) -> Path:
    return write_weights(path, {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 8)})


def test_a_lora_is_chosen_named_by_its_file_and_then_in_the_table(
    show: Show, client: FarmClient, pages: Pages, tmp_path: Path
) -> None:
    loras.add(client.ledger, client.storage, "add-detail", str(a_file(tmp_path / "old.safetensors")))
    file = a_file(tmp_path / "add detail.safetensors", fill=1)
    page = show("/workers")
    page.evaluate("document.here = true")
    place = adding(page, "LoRA")
    button = place.get_by_role("button", name="Add it")
    expect(button).to_be_disabled()

    place.get_by_label("Choose a file").set_input_files(file)

    expect(place.get_by_label("Name", exact=True)).to_have_value("add-detail-2")
    expect(place.locator("[data-said]")).to_contain_text("add detail.safetensors, ")
    button.click()
    row = page.locator("#loras").get_by_role("row").filter(has_text="add-detail-2")
    expect(row).to_contain_text("Stable Diffusion 1")
    expect(row).to_contain_text("add detail.safetensors, sent by ada")
    expect(page.locator(".toast")).to_contain_text("add-detail-2 is added")
    expect(place.locator("summary")).to_be_focused()
    expect(place.get_by_label("Name", exact=True)).to_have_value("")
    expect(button).to_be_disabled()
    assert page.evaluate("document.here"), "it is the same page"
    assert LORAS.read(client.storage, "add-detail-2").file.sha256 == sha256(file)
    assert [*(pages.home / "web-uploads").iterdir()] == []


def test_a_wrong_file_is_told_in_place_before_it_is_sent(show: Show, client: FarmClient, tmp_path: Path) -> None:
    page = show("/workers")
    sent = puts(page)
    place = adding(page, "LoRA")
    choose, fault = place.get_by_label("Choose a file"), place.get_by_role("alert")
    (tmp_path / "notes.safetensors").write_text("hello")
    (tmp_path / "page.safetensors").write_text("<!doctype html>" + "<p>" * 999)
    write_weights(tmp_path / "whole.safetensors", checkpoint())
    for name, said in {
        a_flux_lora(
            tmp_path / "flux.safetensors"
        ).name: "flux.safetensors is for Flux, or a model built like it – it goes",
        "notes.safetensors": "notes.safetensors is not safetensors, or is damaged",
        "page.safetensors": "page.safetensors is a web page, not the file itself",
        "whole.safetensors": "whole.safetensors is a whole checkpoint, and no LoRA",
    }.items():
        choose.set_input_files(tmp_path / name)
        expect(fault).to_contain_text(said)
        expect(place.get_by_role("button", name="Add it")).to_be_disabled()

    choose.set_input_files(a_file(tmp_path / "good.safetensors"))
    expect(fault).to_be_hidden()
    place.get_by_label("Name", exact=True).fill("a b")
    place.get_by_label("Name", exact=True).press("Enter")
    expect(fault).to_contain_text("'a b' cannot name a LoRA")
    expect(place.get_by_label("Name", exact=True)).to_have_attribute("aria-invalid", "true")
    assert sent == []
    place.get_by_label("Name", exact=True).fill("good")
    place.get_by_label("Name", exact=True).press("Enter")
    expect(page.locator("#loras").get_by_role("row").filter(has_text="good")).to_be_visible()
    assert len(sent) == 1

    model = adding(page, "model")
    model.get_by_label("Choose a file").set_input_files(tmp_path / "good.safetensors")
    expect(model.get_by_role("alert")).to_contain_text("good.safetensors is a LoRA, and no whole model")
    model.get_by_label("Choose a file").set_input_files(tmp_path / "whole.safetensors")
    model.get_by_label("Name", exact=True).fill("emoji")
    model.get_by_role("button", name="Add it").click()
    expect(model.get_by_role("alert")).to_contain_text("'emoji' is a model that comes with the farm")
    model.get_by_label("Name", exact=True).fill("whole")
    model.get_by_role("button", name="Add it").click()
    expect(page.locator("#models").get_by_role("row").filter(has_text="whole.safetensors, sent by")).to_be_visible()
    assert MODELS.read(client.storage, "whole").kind == "sd1"


def test_a_name_that_is_taken_is_put_to_another_use_only_if_that_is_said(
    show: Show, client: FarmClient, tmp_path: Path, said: Said
) -> None:
    loras.add(client.ledger, client.storage, "style", str(a_file(tmp_path / "old.safetensors")))
    page = show("/workers")
    sent = puts(page)
    place = adding(page, "LoRA")
    place.get_by_label("Choose a file").set_input_files(new := a_file(tmp_path / "new.safetensors", fill=1))
    another = place.get_by_label("Put it in the place of the LoRA that has this name")
    expect(another).to_be_hidden()
    expect(place.locator("[data-another]")).to_have_text(re.compile("made again, unless another name has it too$"))
    place.get_by_label("Name", exact=True).fill("style")
    place.get_by_role("button", name="Add it").click()
    expect(place.get_by_role("alert")).to_contain_text("the farm has a LoRA of this name – choose another, or put")
    assert sent == []
    another.check()
    place.get_by_role("button", name="Add it").click()
    expect(page.locator(".toast")).to_contain_text("style is added")
    assert LORAS.read(client.storage, "style").file.sha256 == sha256(new)

    place.get_by_label("Choose a file").set_input_files(a_file(tmp_path / "third.safetensors", fill=2))
    place.get_by_label("Name", exact=True).fill("late")
    loras.add(client.ledger, client.storage, "late", str(tmp_path / "old.safetensors"))
    place.get_by_role("button", name="Add it").click()
    expect(place.get_by_role("alert")).to_contain_text("the farm has a LoRA of this name")
    another.check()
    place.get_by_role("button", name="Add it").click()
    expect(page.locator(".toast").last).to_contain_text("late is added")
    assert all("409" in line for line in said.lines), "the browser's own words"
    said.lines.clear()


def test_what_is_being_sent_shows_how_far_it_is_and_is_called_off(
    show: Show, client: FarmClient, pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{layer}.lora_down.weight": (4, 768), f"{layer}.lora_up.weight": (KIB * KIB, 4)}
    file = write_weights(tmp_path / "large.safetensors", shapes)
    folder = pages.home / "web-uploads"
    page = show("/workers")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400 * KIB}
    place = adding(page, "LoRA")
    place.get_by_label("Choose a file").set_input_files(file)
    expect(place.get_by_role("button", name="Add it")).to_be_enabled()
    network = page.context.new_cdp_session(page)
    network.send("Network.emulateNetworkConditions", slow)

    place.get_by_role("button", name="Add it").click()

    expect(place.get_by_role("status")).to_have_text("Sending it to the site…")
    expect(place.locator("[data-much]")).to_have_text(re.compile(r"^[1-9][\d.]* [KM]iB of 4.0 MiB$"))
    expect(place.get_by_label("Name", exact=True)).to_be_disabled()
    eventually(lambda: len([*folder.iterdir()]) == 1, "it comes")
    place.get_by_role("button", name="Cancel").click()
    expect(page.locator(".toast")).to_contain_text("it was not added")
    eventually(lambda: [*folder.iterdir()] == [], "nothing is left of it")
    expect(place.get_by_role("button", name="Add it")).to_be_focused()
    assert LORAS.manifests(client.storage) == {}

    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    upload, goes_on = Storage.upload, threading.Event()

    def slowly(storage: Storage, *of: Any, **how: Any) -> None:
        assert goes_on.wait(60)
        upload(storage, *of, **how)

    monkeypatch.setattr(Storage, "upload", slowly)
    place.get_by_role("button", name="Add it").click()
    expect(place.get_by_role("status")).to_have_text("It goes into the farm…")
    expect(place.get_by_role("button", name="Cancel")).to_be_hidden()
    goes_on.set()
    expect(page.locator(".toast").last).to_contain_text("large is added")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_forms_shut_nobody_out_and_fit_on_a_phone(show: Show, tmp_path: Path, scheme: str) -> None:
    page = show("/workers", viewport=PHONE, color_scheme=scheme)
    for what in ("model", "LoRA"):
        place = adding(page, what)
        place.get_by_label("Choose a file").set_input_files(a_flux_lora(tmp_path / f"{'long-' * 20}.safetensors"))
        expect(place.get_by_role("alert")).to_be_visible()
    page.locator("[data-going]").evaluate_all("all => all.forEach((one) => { one.hidden = false; })")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_what_the_farm_keeps_is_read_and_removed_on_a_phone(show: Show, client: FarmClient, tmp_path: Path) -> None:
    for name in ("style", "a-lora-of-a-name-that-is-rather-long"):
        loras.add(client.ledger, client.storage, name, str(a_file(tmp_path / f"{name}.safetensors")))
    write_weights(tmp_path / "whole.safetensors", checkpoint())
    keeping.add(client.ledger, client.storage, "whole", str(tmp_path / "whole.safetensors"))
    page = show("/workers", viewport=PHONE)
    for name in ("style", "whole"):
        button = page.get_by_role("button", name=f"Remove {name}")
        box = button.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"], "nothing is out of sight"
    for region in page.locator(".scroll").all():
        assert region.evaluate("(one) => one.scrollWidth <= one.clientWidth")

    row = page.get_by_role("row").filter(has_text="style.safetensors")
    expect(row.get_by_role("rowheader")).to_have_text("style")
    expect(row.get_by_role("cell")).to_have_count(5)
    heads = page.locator("#loras").get_by_role("columnheader").all_inner_texts()
    told = row.locator("td").evaluate_all("all => all.map((cell) => cell.dataset.head ?? null)")
    assert heads == ["LoRA", *told[:-1], "Removal"] and told[-1] is None
    said = "getComputedStyle(cell, '::before').content"
    assert row.locator("[data-head=size]").evaluate(f"(cell) => {said}").startswith('"size"')
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_a_file_is_dropped_and_added_by_keys_alone(show: Show, client: FarmClient, tmp_path: Path) -> None:
    file = a_file(tmp_path / "dropped.safetensors")
    page = show("/workers")
    given = page.evaluate_handle(
        """(bytes) => {
            const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(bytes)], "dropped.safetensors"));
            return given;
        }""",
        [*file.read_bytes()],
    )
    page.dispatch_event("#add-loras", "drop", {"dataTransfer": given})
    place = page.locator("#add-loras")
    expect(place.get_by_label("Name", exact=True)).to_have_value("dropped")
    expect(place.get_by_role("button", name="Add it")).to_be_enabled()
    place.locator("summary").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(place.get_by_role("button", name="Add it")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#loras").get_by_role("row").filter(has_text="dropped")).to_be_visible()
    assert LORAS.read(client.storage, "dropped").file.sha256 == sha256(file)


def test_who_may_not_is_shown_no_form(show: Show) -> None:
    page = show("/workers", "submit")
    expect(page.get_by_role("heading", name="LoRAs")).to_be_visible()
    assert page.locator(".adding").count() == 0
