"""The app in a headless Chromium: what a visitor does, and what the page then shows."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PATIENCE = 180  # seconds, on a machine that others use too


class Visitor:
    """A visitor of the app.

    Args:
        address (`str`): Of the page; no other machine can be reached.
        width (`int`): Of the window, pixels.
        height (`int`): Of the window, pixels.
    """

    def __init__(self, address: str, width: int = 1100, height: int = 1300) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", rules):
            options.add_argument(flag)
        options.add_argument(f"--window-size={width},{height}")
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(PATIENCE)
        self.driver.get(address)
        self.wait(lambda: self.find("#picture input[type=file]") and self.find("#adapter input"))

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition: Any) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, PATIENCE, 0.3, [StaleElementReferenceException])
        return waiting.until(lambda driver: condition())

    def upload(self, path: Path) -> None:
        for button in self.find("#picture button[aria-label='Remove this file'], #picture button[aria-label='Clear']"):
            button.click()
        self.wait(lambda: self.find("#picture input[type=file]"))[0].send_keys(str(path))

    def choose(self, name: str) -> None:
        label = next(each for each in self.find("#adapter label") if each.text.strip() == name)
        label.click()

    @property
    def message(self) -> str:
        return " ".join(each.text for each in self.find("#message")).strip()

    def await_message(self, *parts: str) -> None:
        self.wait(lambda: all(part in self.message for part in parts))

    def bars(self, place: str) -> dict[str, float]:
        """The scores that the bars show, by label, best first."""
        bars = self.find(f"#labels-{place} meter")
        return {bar.get_attribute("aria-label"): float(bar.get_attribute("value")) for bar in bars}

    def picture(self, place: str) -> Image.Image:
        """What the page has at a place, as it came over the wire."""
        source = self.wait(lambda: self.find(f"#picture-{place} img"))[0].get_attribute("src")
        content = self.driver.execute_async_script(
            "const done = arguments[1]; fetch(arguments[0]).then(r => r.arrayBuffer())"
            ".then(b => done(Array.from(new Uint8Array(b))))",
            source,
        )
        return Image.open(io.BytesIO(bytes(content))).convert("RGB")

    def captions(self) -> list[str]:
        return [each.text.strip() for each in self.find("#maps .caption-label")]

    def hidden_captions(self) -> list[str]:
        """Captions of which a part is cut off, or that lie over their map."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('#maps .caption-label')].filter(caption => {"
            "  const map = caption.parentElement.querySelector('img').getBoundingClientRect();"
            "  return caption.scrollWidth > caption.clientWidth || caption.scrollHeight > caption.clientHeight"
            "    || caption.getBoundingClientRect().top < map.bottom - 1;"
            "}).map(caption => caption.textContent)"
        )

    def close(self) -> None:
        self.driver.quit()
