"""page.html in a real browser: headless Chromium types, clicks and reads what is on the page."""
import json
import os
import shutil
import subprocess
import time

import pytest
import torch

from talk.engine import Engine
from toy_chat import Scripted, byte_tokenizer, tiny_model
from toy_server import Client, watch_submit

torch.set_num_threads(1)
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """Headless Chromium, driven through its DevTools pipe without any package.

    Messages in both directions are JSON and end with a zero byte.
    """

    def __init__(self, profile):
        read_3, self.to_browser = os.pipe()
        self.from_browser, write_4 = os.pipe()
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                   "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                   "--disable-extensions", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        # Chromium reads its commands from file descriptor 3 and writes to 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read_3} 4>&{write_4}', "-", *command],
            pass_fds=(read_3, write_4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_3)
        os.close(write_4)
        self.count = 0
        self.buffer = b""

    def call(self, method, session=None, **params):
        """Send a command and wait for its result. Events that come meanwhile are dropped."""
        self.count += 1
        message = dict(id=self.count, method=method, params=params)
        if session:
            message["sessionId"] = session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.from_browser, 1 << 16)
                assert piece, "the browser has gone"
                self.buffer += piece
            text, self.buffer = self.buffer.split(b"\0", 1)
            reply = json.loads(text)
            if reply.get("id") == self.count:
                assert "error" not in reply, reply
                return reply["result"]

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        os.close(self.to_browser)
        os.close(self.from_browser)


class Tab:
    """A tab of the browser that shows the page."""
    LOADED = ("document.readyState === 'complete' && "
              "document.querySelector('#model')?.textContent")

    def __init__(self, browser, url):
        self.browser = browser
        self.target = browser.call("Target.createTarget", url=url)["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)
        self.session = attached["sessionId"]
        self.wait(self.LOADED)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def js(self, code):
        """Run JavaScript on the page. -> its value"""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True,
                           returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.js(f"!!({condition})"):
            if time.monotonic() > end:
                text = self.js("document.body.innerText")
                raise AssertionError(f"{condition}: not within {seconds} s; {text}")
            time.sleep(0.03)

    def wait_for_answers(self, n):
        """Wait until nothing is streaming and there are n answers."""
        self.wait("document.querySelector('#send').textContent === 'Send' && "
                  f"document.querySelectorAll('.assistant').length === {n}")

    def send(self, text):
        """Type a question and press Enter."""
        self.browser.call("Target.activateTarget", targetId=self.target)
        self.js("document.querySelector('#input').focus()")
        self.call("Input.insertText", text=text)
        self.key("Enter", 13, "\r")

    def key(self, key, code, text=""):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code,
                  text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, button, message):
        """Click the button with this text in message number `message`; -1 is the last one."""
        self.js(f"[...[...document.querySelectorAll('.message')].at({message})"
                f".querySelectorAll('button')].find(b => b.textContent === '{button}').click()")

    def texts(self):
        return self.js("[...document.querySelectorAll('.message .text')].map(e => e.textContent)")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_the_page_in_chromium(tmp_path, monkeypatch):
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    say = "<img src=x onerror=alert(1)>é😀"
    script = [*tok.encode(say), tok.special("<|python_start|>"), *tok.encode("6*7"),
              tok.special("<|python_end|>"), *[0] * 4, *tok.encode(" ok" + "." * 60),
              tok.special("<|assistant_end|>")]
    full_answer = say + "6*7" + "42" + " ok" + "." * 60
    engine.decoder = Scripted(engine, script, None)
    client = Client(engine, tok, max_tokens=200)
    browser = Browser(tmp_path)
    try:
        url = f"http://127.0.0.1:{client.port}/"
        one = Tab(browser, url)

        # Text stays text, and tool calls have boxes of their own.
        one.send("<b>hello</b>")
        one.wait_for_answers(1)
        assert one.texts() == ["<b>hello</b>", full_answer]
        assert one.js("document.querySelectorAll('.text img, .text b').length") == 0
        boxes = one.js("[...document.querySelectorAll('.tool')]"
                       ".map(e => e.className + ':' + e.textContent)")
        assert boxes == ["tool python:6*7", "tool python_output:42"]

        # Watch a stream, then stop it. The engine stops as well.
        engine.decoder.delay = 0.05
        one.send("again")
        one.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 5")
        assert one.js("document.querySelector('#send').textContent") == "Stop"
        one.key("Escape", 27)
        one.wait_for_answers(2)
        texts = one.texts()
        assert len(texts) == 4 and 5 < len(texts[3]) < len(full_answer)
        assert client.idle()

        # Two tabs are answered at once, and each has its own conversation.
        engine.decoder.delay = 0.01
        two = Tab(browser, url)
        assert two.texts() == []
        two.send("from the second tab")
        one.js("document.querySelector('#send').focus()")
        one.send("from the first tab")
        one.wait_for_answers(3)
        two.wait_for_answers(1)
        assert one.texts()[4] == "from the first tab"
        assert two.texts() == ["from the second tab", full_answer]

        # A reload keeps the conversation of the tab.
        one.call("Page.reload")
        time.sleep(0.3)
        one.wait("document.querySelectorAll('.message').length === 6 && " + Tab.LOADED)
        assert one.texts()[:2] == ["<b>hello</b>", full_answer]
        assert one.texts()[5] == full_answer

        # The last answer can be had once more.
        one.click("Regenerate", message=-1)
        one.wait("document.querySelector('#send').textContent === 'Stop'")
        one.wait_for_answers(3)
        assert len(one.texts()) == 6 and one.texts()[5] == full_answer

        # After an edit of the second question, the conversation goes on from there.
        one.click("Edit", message=2)
        one.js("document.querySelector('.message textarea').value = 'edited'")
        one.click("Send", message=2)
        one.wait_for_answers(2)
        assert one.texts()[2:] == ["edited", full_answer]

        # The theme button changes the colours.
        background = "getComputedStyle(document.body).backgroundColor"
        before = one.js(background)
        one.js("document.querySelector('#theme').click()")
        assert one.js(background) != before

        # The settings and the tool calls of earlier turns reach the engine.
        calls = watch_submit(engine, monkeypatch)
        one.js("document.querySelector('#show').click()")
        for field, value in [("temperature", "0.3"), ("max_tokens", "7"), ("system", "Be kind.")]:
            one.js(f"document.querySelector('#{field}').value = '{value}'")
            one.js(f"document.querySelector('#{field}').dispatchEvent(new Event('input'))")
        one.send("settings")
        one.wait_for_answers(3)
        [(ids, max_tokens, sampling)] = calls
        prompt = tok.decode(ids)
        assert max_tokens == 7 and sampling.temperature == 0.3
        assert "Be kind.\n\n<b>hello</b>" in prompt and "Be kind.\n\nedited" not in prompt
        assert "6*7<|python_end|><|output_start|>42<|output_end|>" in prompt

        # The page fits on a small phone.
        one.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=2,
                 mobile=True)
        assert one.js("document.documentElement.scrollWidth") <= 360
        assert one.js("document.querySelector('#send').getBoundingClientRect().bottom") <= 640

        # A new chat begins empty.
        two.js("document.querySelector('#new').click()")
        assert two.texts() == []
    finally:
        browser.close()
        client.close()
