"""page.html in a real browser: headless Chromium types, clicks and reads what is on the page."""
import json
import math
import os
import shutil
import subprocess
import time

import pytest
import torch

from talk.attention import attention
from talk.engine import Engine
from toy_chat import Scripted, byte_tokenizer, prompt, tiny_model
from toy_server import Client, watch_submit

torch.set_num_threads(1)
pytestmark = pytest.mark.slow
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

    def fill(self, field, value):
        """Put a value into a field as typing does."""
        self.js(f"$('{field}').value = {json.dumps(value)};"
                f"$('{field}').dispatchEvent(new Event('input'))")

    def reload(self, n_messages):
        self.call("Page.reload")
        time.sleep(0.3)
        self.wait(f"document.querySelectorAll('.message').length === {n_messages} && "
                  + self.LOADED)

    def titles(self):
        """What the list of chats shows."""
        self.js("openPanel('chats', true)")
        return self.js("[...document.querySelectorAll('#chats .title')].map(e => e.textContent)")

    def texts(self):
        return self.js("[...document.querySelectorAll('.message .text')].map(e => e.textContent)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


class Site:
    """A server whose model says one text again and again, and the tabs that show its page."""

    def __init__(self, browser, script, seq_len=512, **flags):
        self.browser = browser
        self.tok = byte_tokenizer()
        self.engine = Engine(tiny_model(seq_len=seq_len), self.tok)
        if isinstance(script, str):
            script = [*self.tok.encode(script), self.tok.special("<|assistant_end|>")]
        self.engine.decoder = Scripted(self.engine, script, None)
        self.client = Client(self.engine, self.tok, **dict(max_tokens=200) | flags)

    def tab(self):
        # Every server has a port of its own, and so every site a storage of its own.
        return Tab(self.browser, f"http://127.0.0.1:{self.client.port}/")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.client.close()


def test_a_chat_from_the_first_question_on(browser, monkeypatch):
    tok = byte_tokenizer()
    say = "<img src=x onerror=alert(1)>é😀"
    script = [*tok.encode(say), tok.special("<|python_start|>"), *tok.encode("6*7"),
              tok.special("<|python_end|>"), *[0] * 4, *tok.encode(" ok" + "." * 60),
              tok.special("<|assistant_end|>")]
    full_answer = say + "6*7" + "42" + " ok" + "." * 60
    with Site(browser, script) as site:
        one = site.tab()

        # Text stays text, and tool calls have boxes of their own.
        one.send("<b>hello</b>")
        one.wait_for_answers(1)
        assert one.texts() == ["<b>hello</b>", full_answer]
        assert one.js("document.querySelectorAll('.text img, .text b').length") == 0
        boxes = one.js("[...document.querySelectorAll('.tool')]"
                       ".map(e => e.className + ':' + e.textContent)")
        assert boxes == ["tool python:6*7", "tool python_output:42"]

        # Watch a stream, then stop it. The engine stops as well.
        site.engine.decoder.delay = 0.05
        one.send("again")
        one.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 5")
        assert one.js("document.querySelector('#send').textContent") == "Stop"
        one.key("Escape", 27)
        one.wait_for_answers(2)
        texts = one.texts()
        assert len(texts) == 4 and 5 < len(texts[3]) < len(full_answer)
        assert site.client.idle()

        # Two tabs are answered at once, and each has its own conversation.
        site.engine.decoder.delay = 0.01
        two = site.tab()
        assert two.texts() == []
        two.send("from the second tab")
        one.js("document.querySelector('#send').focus()")
        one.send("from the first tab")
        one.wait_for_answers(3)
        two.wait_for_answers(1)
        assert one.texts()[4] == "from the first tab"
        assert two.texts() == ["from the second tab", full_answer]

        # A reload keeps the conversation of the tab.
        one.reload(6)
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

        # The settings and the tool calls of earlier turns reach the site.engine.
        calls = watch_submit(site.engine, monkeypatch)
        one.js("document.querySelector('#show').click()")
        for field, value in [("temperature", "0.3"), ("max_tokens", "7"), ("system", "Be\nkind.")]:
            one.fill(field, value)
        one.send("settings")
        one.wait_for_answers(3)
        [(ids, max_tokens, sampling)] = calls
        prompt = tok.decode(ids)
        assert max_tokens == 7 and sampling.temperature == 0.3
        assert "Be\nkind.\n\n<b>hello</b>" in prompt and "Be\nkind.\n\nedited" not in prompt
        assert "6*7<|python_end|><|output_start|>42<|output_end|>" in prompt

        # A new chat begins empty.
        two.js("document.querySelector('#new').click()")
        assert two.texts() == []


MARKDOWN = """\
# Title
A **bold** and *soft* `x*y*z` word, 2*3*4 and f(*args, **kw).
Next line.

- one
  - deeper
* two

3. three
4. four

> said
```python
print("**no**", `x`)

# no title
```
#### 42
<script>alert(1)</script> <img src=x onerror=alert(1)> [a](javascript:alert(1))
~~~
open"""


def test_markdown_becomes_elements_and_html_stays_text(browser):
    with Site(browser, MARKDOWN, max_tokens=500, seq_len=1024) as site:
        tab = site.tab()
        # Whatever runs on the page that the page did not bring would be reported here.
        tab.js("window.ran = 0; window.alert = () => ran++")
        tab.send("**question** <b>")
        tab.wait_for_answers(1)
        assert tab.texts()[0] == "**question** <b>"
        shown = tab.js("""
            [...document.querySelector('.assistant .text').children].map(
                e => [e.tagName, e.textContent])""")
        assert shown == [
            ["H3", "Title"],
            ["P", "A bold and soft x*y*z word, 2*3*4 and f(*args, **kw).\nNext line."],
            ["UL", "onedeepertwo"], ["OL", "threefour"], ["BLOCKQUOTE", "said"],
            ["DIV", 'print("**no**", `x`)\n\n# no title'],
            ["P", "#### 42\n<script>alert(1)</script> <img src=x onerror=alert(1)> "
                  "[a](javascript:alert(1))"],
            ["DIV", "open"]]
        assert tab.js("""[...document.querySelectorAll('.assistant p :is(strong, em, code)')]
                         .map(e => e.tagName + e.textContent)""") == [
            "STRONGbold", "EMsoft", "CODEx*y*z"]
        assert tab.js("document.querySelector('.assistant ol').start") == 3
        allowed = "p h3 ul ol li blockquote div pre code button strong em".split()
        assert tab.js(f"document.querySelectorAll('.text :not({','.join(allowed)})').length") == 0
        assert tab.js("ran") == 0

        # A code block has a button of its own, which copies the code alone.
        tab.js("navigator.clipboard.writeText = async text => window.copied = text")
        tab.js("document.querySelector('.code button').click()")
        assert tab.js("copied") == 'print("**no**", `x`)\n\n# no title'
        assert tab.js("document.querySelector('.code').dataset.language") == "python"
        tab.click("Copy", message=1)
        assert tab.js("copied") == MARKDOWN


def test_markdown_of_any_text_loses_no_letter_and_takes_no_time(browser):
    with Site(browser, "x") as site:
        tab = site.tab()
        # All but the signs of Markdown itself stays, whatever the text is.
        assert tab.js("""(() => {
            const signs = ["*", "**", "`", "```", "~~~", "\\n", " ", "#", "-", "1.", ">", "a", "B",
                           "\ufffc", "<b>", "_", "\\\\"];
            let state = 1;
            const random = n => (state = state * 48271 % 2147483647) % n;
            for (let i = 0; i < 3000; i++) {
                let text = "";
                for (let k = random(30); k >= 0; k--) text += signs[random(signs.length)];
                const node = document.createElement("div");
                const parts = [{type: "text", text}, {type: "python", text: "T"},
                               {type: "text", text}];
                fill(node, {role: "assistant", parts});
                if (node.querySelectorAll(".tool").length !== 1) return ["box", text];
                // What follows a fence is the name of a language.
                const letters = s => s.replace(/[^aBT<_]/g, "");
                if (!/```|~~~/.test(text + text)
                    && letters(node.textContent) !== letters(text + "T" + text))
                    return ["letters", text, node.textContent];
            }
            return "all";
        })()""") == "all"
        slow = ["*a " * 5000, "**a *b " * 3000, "`" * 20_000, "**a" * 5000, "`a" * 8000,
                "> " * 9000, "- " * 9000]
        for text in slow:
            assert tab.js(f"""(() => {{
                const node = document.createElement("div");
                fill(node, {{role: "assistant", content: {json.dumps("x" + text)}}});
                return node.textContent.length;
            }})()""") > 0


def test_chats_outlive_their_tab(browser):
    with Site(browser, "answer") as site:
        tab = site.tab()
        for text in "first question", "second question":
            tab.send(text)
            tab.wait_for_answers(1)
            tab.js("newChat()")
        assert tab.titles() == ["second question", "first question"]
        browser.call("Target.closeTarget", targetId=tab.target)

        # A new tab begins with an empty chat, and finds the others in the list.
        tab = site.tab()
        assert tab.texts() == [] and tab.titles() == ["second question", "first question"]
        tab.js("[...document.querySelectorAll('#chats .title')][1].click()")
        assert tab.texts() == ["first question", "answer"]
        tab.send("more")
        tab.wait_for_answers(2)
        assert tab.titles() == ["first question", "second question"]
        tab.reload(4)

        # Only the second click deletes.
        delete = "document.querySelectorAll('#chats .title + button')[0]"
        assert tab.titles() == ["first question", "second question"]
        tab.js(f"{delete}.click()")
        assert len(tab.titles()) == 2
        tab.js(f"{delete}.click()")
        tab.js(f"{delete}.click()")
        assert tab.titles() == ["second question"] and tab.texts() == []


def test_export_and_import(browser, tmp_path):
    tok = byte_tokenizer()
    script = [*tok.encode("is "), tok.special("<|python_start|>"), *tok.encode("6*7"),
              tok.special("<|python_end|>"), *[0] * 4, tok.special("<|assistant_end|>")]
    with Site(browser, script) as site:
        tab = site.tab()
        tab.fill("system", "Be kind.")
        tab.send("6*7?")
        tab.wait_for_answers(1)
        tab.js("""
            window.files = [];
            HTMLAnchorElement.prototype.click = function () {
                files.push([this.download, fetchText(this.href)]);
            };
            window.blobs = {};
            const old = URL.createObjectURL;
            URL.createObjectURL = blob => { const u = old(blob); blobs[u] = blob; return u; };
            window.fetchText = href => blobs[href].text();
        """)
        tab.titles()
        tab.js("document.querySelector('#chats button').click()")
        name, text = tab.js("Promise.all(files[0])")
        parts = [dict(type="text", text="is "), dict(type="python", text="6*7"),
                 dict(type="python_output", text="42")]
        record = {"messages": [dict(role="system", content="Be kind."),
                               dict(role="user", content="6*7?"),
                               dict(role="assistant", content=parts)]}
        assert name == "6 7.json" and json.loads(text) == record
        # The terminal and the training stages read the same file.
        tok.render_conversation(json.loads(text))

        def choose(content):
            """Import a file with this content."""
            tab.js(f"importFiles([new File([{json.dumps(content)}], 'x.json')])")

        other = {"messages": [dict(role="user", content="hi"),
                              dict(role="assistant", content="**ho**")]}
        choose(json.dumps(record) + "\n" + json.dumps(other) + "\n")
        tab.wait("document.querySelectorAll('.message').length === 2 && $('system').value === ''")
        assert tab.texts() == ["hi", "ho"]
        assert sorted(tab.titles()) == ["6*7?", "6*7?", "hi"]
        # The two that were imported bear the same time, so that either may stand first.
        tab.js(f"document.querySelectorAll('#chats .title')[{tab.titles().index('6*7?')}].click()")
        assert tab.texts() == ["6*7?", "is 6*742"] and tab.js("$('system').value") == "Be kind."
        for bad in ("x", "{}", '{"messages": [{"role": "tool", "content": "x"}]}', "",
                    json.dumps(other) + '\n{"messages": [{"role": "user", "content": 3}]}'):
            tab.js("notify('')")
            choose(bad)
            if bad:
                tab.wait("$('notice').textContent.includes('x.json can')")
            assert len(tab.titles()) == 3


def test_a_cut_answer_goes_on(browser):
    with Site(browser, "abcdefghij", max_tokens=4) as site:
        tab = site.tab()
        tab.send("hi")
        tab.wait_for_answers(1)
        note = "document.querySelector('.assistant .note')?.textContent"
        assert tab.texts()[1] == "abcd" and "Cut off" in tab.js(note)
        # The model is scripted, and says its text from the beginning again.
        tab.click("Continue", message=-1)
        tab.wait_for_answers(1)
        assert tab.texts()[1] == "abcdabcd"
        tab.fill("max_tokens", "20")
        tab.click("Continue", message=-1)
        tab.wait_for_answers(1)
        assert tab.texts()[1] == "abcdabcdabcdefghij"
        # It has ended by itself now.
        assert not tab.js(note)
        assert "Continue" not in tab.js("document.querySelector('.actions').parentNode.innerText")
        assert len(tab.js("chat.messages")) == 2
        # 11 tokens with the one that ends the answer.
        stats = tab.js("document.querySelector('.stats').textContent")
        used = len(site.tok.encode("hi" + "abcd" * 2)) + 4 + 11
        assert stats.startswith("11 tokens · ") and stats.endswith(f" · context {used} of 512")
        assert " tokens/s · " in stats


def test_a_long_chat_keeps_room_for_the_answer(browser, monkeypatch):
    with Site(browser, "x" * 30, seq_len=256, max_tokens=100) as site:
        tab = site.tab()
        calls = watch_submit(site.engine, monkeypatch)
        for n in range(1, 8):
            tab.send(str(n) * 20)
            tab.wait_for_answers(n)
        assert all(len(ids) <= 192 for ids, _, _ in calls) and len(calls) == 7
        assert tab.texts()[1::2] == ["x" * 30] * 7
        assert "oldest 3 turns were left out" in tab.js(
            "[...document.querySelectorAll('.note')].at(-1).textContent")


def test_an_earlier_answer_is_regenerated_while_another_streams(browser):
    with Site(browser, "abcdefghijklmnopqrstuvwxyz" * 4) as site:
        tab = site.tab()
        tab.send("one")
        tab.wait_for_answers(1)
        site.engine.decoder.delay = 0.05
        tab.send("two")
        tab.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 5")
        tab.click("Regenerate", message=1)
        # The new answer grows before one's eyes.
        tab.wait("document.querySelectorAll('.message').length === 2")
        tab.wait("document.querySelector('.assistant .text').textContent.length > 10", 20)
        assert tab.js("document.querySelector('#send').textContent") == "Stop"
        assert tab.js("document.querySelector('.waiting .text').textContent.length") < 104
        site.engine.decoder.delay = 0
        tab.wait_for_answers(1)
        assert tab.texts() == ["one", "abcdefghijklmnopqrstuvwxyz" * 4]


def test_another_chat_can_be_opened_while_an_answer_streams(browser):
    with Site(browser, "a" * 100) as site:
        tab = site.tab()
        site.engine.decoder.delay = 0.05
        tab.send("one")
        tab.wait("document.querySelector('.assistant .text')?.textContent.length > 5")
        tab.js("newChat()")
        assert tab.js("document.querySelector('#send').textContent") == "Send"
        site.engine.decoder.delay = 0
        tab.send("two")
        tab.wait_for_answers(1)
        assert tab.texts() == ["two", "a" * 100]
        assert tab.titles() == ["two", "one"]
        tab.js("document.querySelectorAll('#chats .title')[1].click()")
        assert tab.js("$('chats').hidden")
        question, cut = tab.texts()
        assert question == "one" and 5 < len(cut) < 100
        assert "Stopped." in tab.js("document.querySelector('.note').textContent")

        # A chat that is deleted while it is answered does not come back.
        site.engine.decoder.delay = 0.05
        tab.send("three")
        tab.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 5")
        assert tab.titles() == ["one", "two"]
        delete = "document.querySelectorAll('#chats .title + button')[0]"
        tab.js(f"{delete}.click()")
        tab.js(f"{delete}.click()")
        assert site.client.idle() and tab.texts() == []
        time.sleep(0.2)
        assert tab.titles() == ["two"]


def test_tabs_do_not_undo_each_other(browser):
    with Site(browser, "answer") as site:
        one = site.tab()
        one.send("question")
        one.wait_for_answers(1)
        two = site.tab()
        two.titles()
        two.js("document.querySelector('#chats .title').click()")
        assert two.texts() == ["question", "answer"]
        # The other tab shows the same chat, and what comes to it.
        two.send("more")
        two.wait_for_answers(2)
        one.wait("document.querySelectorAll('.message').length === 4")
        # A setting of one tab is not overwritten by what another tab keeps.
        one.fill("temperature", "0.5")
        two.send("again")
        two.wait_for_answers(3)
        assert two.js("JSON.parse(localStorage.getItem('settings')).temperature") == "0.5"


def test_a_server_that_is_gone_is_named(browser):
    with Site(browser, "abc") as site:
        tab = site.tab()
        tab.call("Network.enable")
        tab.call("Network.emulateNetworkConditions", offline=True, latency=0,
                 downloadThroughput=-1, uploadThroughput=-1)
        tab.send("hi")
        tab.wait_for_answers(1)
        note = tab.js("document.querySelector('.note').textContent")
        assert note.startswith("The server is gone.") and "fetch" not in note


def test_enter_of_an_input_method_does_not_send(browser):
    with Site(browser, "abc") as site:
        tab = site.tab()
        tab.fill("input", "にほん")
        for event in ("{key: 'Enter', isComposing: true}", "{key: 'Enter', keyCode: 229}",
                      "{key: 'Enter', shiftKey: true}"):
            tab.js(f"$('input').dispatchEvent(new KeyboardEvent('keydown', {event}))")
        assert tab.texts() == [] and tab.js("$('input').value") == "にほん"
        tab.js("$('input').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))")
        tab.wait_for_answers(1)


def test_a_phone(browser):
    tok = byte_tokenizer()
    script = [*tok.encode("word " * 20), tok.special("<|python_start|>"),
              *tok.encode("1234567890" * 8), tok.special("<|python_end|>"), *[0] * 90,
              *tok.encode("\n```\n" + "long " * 30 + "\n```\nend"),
              tok.special("<|assistant_end|>")]
    name = "a-model-with-a-rather-long-name-of-its-own"
    with Site(browser, script, seq_len=2048, max_tokens=600, model=name) as site:
        tab = site.tab()
        size = dict(width=360, height=640, deviceScaleFactor=2, mobile=True)
        tab.call("Emulation.setDeviceMetricsOverride", **size)
        for n in (1, 2):
            tab.send("a question of some length, " * 6)
            tab.wait_for_answers(n)
        edge = "document.querySelector('{}').getBoundingClientRect()"
        assert tab.js("document.documentElement.scrollWidth") <= 360
        assert tab.js(edge.format("#send") + ".bottom") <= 640
        # The name of the model is there in full.
        assert tab.js("$('model').getBoundingClientRect().right") <= 360
        assert tab.js("getComputedStyle(document.querySelector('h1')).overflow") == "visible"
        # A tool's box is one box, however long what is in it.
        assert tab.js("[...document.querySelectorAll('.tool')]"
                      ".map(e => e.getClientRects().length)") == [1] * 4
        assert tab.js("Math.max(...[...document.querySelectorAll('.tool, .code')]"
                      ".map(e => e.getBoundingClientRect().right))") <= 360

        # With the keyboard open, the end of the last answer is in view.
        last = "[...document.querySelectorAll('.message')].at(-1).getBoundingClientRect().bottom"
        footer = edge.format("footer")
        # Scrolling goes by whole pixels.
        assert tab.js(last) <= tab.js(footer + ".top") + 1
        tab.call("Emulation.setDeviceMetricsOverride", **size | dict(height=320))
        tab.wait(f"{footer}.bottom <= 320 && {last} <= {footer}.top + 1", 10)
        # The settings fit as well, and do not push the field away.
        tab.js("openPanel('settings', true)")
        assert tab.js(footer + ".bottom") <= 321


class Graded(Scripted):
    """Says the script with probability 0.6, and could say X (0.3) or < (0.1) everywhere."""

    def forward(self, ids, start, row=0, logits="last"):
        out = super().forward(ids, start, row, logits)
        said = out.argmax(1)
        out.fill_(-50.0)
        out[:, ord("X")] = math.log(0.3)
        out[:, ord("<")] = math.log(0.1)
        out[range(len(said)), said] = math.log(0.6)
        return out


def graded_engine(text, question="hi"):
    """-> an Engine and its Tokenizer. Place i of an answer has letter i of the text, whatever
    stands before it.
    """
    tok = byte_tokenizer()
    engine = Engine(tiny_model(seq_len=512), tok)
    script = [*tok.encode(text), tok.special("<|assistant_end|>")]
    engine.decoder = Graded(engine, script, len(prompt(tok, question)))
    return engine, tok


CHIPS = "[...document.querySelectorAll('.chips .chip')].map(e => e.textContent)"
ROWS = ("[...document.querySelectorAll('#tops li button')].map(e => "
        "[...e.querySelectorAll('span:not(.bar)')].map(e => e.textContent))")


def test_look_inside_and_walk(browser):
    engine, tok = graded_engine("a<i>é ")
    client = Client(engine, tok)
    try:
        tab = Tab(browser, f"http://127.0.0.1:{client.port}/")
        tab.fill("temperature", "0")
        tab.js("document.querySelector('#look').click()")
        assert tab.js("$('look').getAttribute('aria-pressed')") == "true"
        tab.send("hi")
        tab.wait_for_answers(1)

        # A chip for every token; half a character is shown as its byte, and no HTML comes of any.
        end = "<|assistant_end|>"
        assert tab.js(CHIPS) == ["a", "<", "i", ">", "C3", "A9", " ", end]
        assert tab.js("document.querySelectorAll('#log i').length") == 0
        colours = tab.js("[...document.querySelectorAll('.chips .chip')]"
                         ".map(e => e.className.match(/p\\d/)[0])")
        assert colours == ["p1"] * 8
        stats = tab.js("document.querySelector('.stats').textContent")
        assert " tokens/s · first after " in stats

        # What the model sees are the ids that the tokenizer makes of the question.
        tab.js("document.querySelector('details').open = true")
        tab.wait("document.querySelector('details .chip')")
        seen = tab.js("[...document.querySelectorAll('details .chip')].map(e => e.title)")
        assert [int(text.split()[1].strip(",")) for text in seen] == prompt(tok, "hi")
        assert all(text.endswith("mask 0") for text in seen)
        tab.js("document.querySelector('details').open = false")

        # By keyboard: the arrows go from chip to chip, and down into the alternatives.
        answer = ".chips[role=group] .chip"
        tab.js(f"document.querySelector('{answer}').focus()")
        tab.key("ArrowRight", 39)
        tab.key("ArrowRight", 39)
        assert tab.js("topsOf.textContent") == "i"
        rows = tab.js(ROWS)
        assert len(rows) == 10 and rows[:3] == [
            ["i ✓", "60.0 %", "105", "69"], ["X", "30.0 %", "88", "58"],
            ["<", "10.00 %", "60", "3C"]]
        widths = tab.js("[...document.querySelectorAll('#tops .bar')].map(e => e.style.width)")
        assert [round(float(width.strip("%"))) for width in widths[:4]] == [60, 30, 10, 0]
        assert tab.js("document.querySelector('#tops button').disabled")
        tab.key("Escape", 27)
        assert tab.js("$('tops').hidden")
        tab.js(f"document.querySelectorAll('{answer}')[1].focus()")
        tab.key("ArrowRight", 39)
        tab.key("ArrowDown", 40)
        assert tab.js("document.activeElement.getAttribute('aria-label')").startswith("X, 30.0 %")

        # The answer goes on behind the other token, and one can come back.
        tab.key("Enter", 13, "\r")
        tab.wait_for_answers(1)
        tab.wait("document.querySelector('.branches')")
        assert tab.js(f"[...document.querySelectorAll('{answer}')].map(e => e.textContent)") == [
            "a", "<", "X", ">", "C3", "A9", " ", end]
        assert tab.js("chat.messages[1].content") == "a<X>é "
        assert tab.js(f"document.querySelectorAll('{answer}.fork').length") == 1
        tab.js("document.querySelector('.branches button').click()")
        assert tab.js("chat.messages[1].content") == "a<i>é "
        # By the pointer, to a branch that is there: nobody is asked for it again.
        box = tab.js(f"(() => {{ const r = document.querySelectorAll('{answer}')[2]"
                     ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]"
                     "; })()")
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        tab.wait("topsOf?.textContent === 'i'", 10)
        assert tab.js(ROWS)[1][0] == "X ⑂"
        tab.js("document.querySelectorAll('#tops li button')[1].click()")
        assert tab.js("running === null && chat.messages[1].content") == "a<X>é "

        # The tree outlives a reload, and without the switch the answer is text.
        tab.reload(2)
        assert "branch 2 of 2" in tab.js("document.querySelector('.branches').textContent")
        tab.js("document.querySelector('#look').click()")
        assert tab.texts() == ["hi", "a<X>é "]

        # A tap does what the pointer does, and all fits on a phone.
        tab.js("document.querySelector('#look').click()")
        tab.call("Emulation.setDeviceMetricsOverride", width=375, height=640, deviceScaleFactor=2,
                 mobile=True)
        tab.js(f"document.querySelectorAll('{answer}')[0].click()")
        assert tab.js("document.documentElement.scrollWidth") <= 375
        assert tab.js("$('tops').getBoundingClientRect().right") <= 375
        assert tab.js("$('tops').contains(document.activeElement)")
    finally:
        client.close()


NAMED = {"button", "textbox", "combobox", "checkbox", "spinbutton", "image", "link",
         "region", "searchbox", "DisclosureTriangle"}


def nameless(tab):
    """What a screen reader would find and could not name, by role and HTML."""
    found = []
    for node in tab.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if not node["ignored"] and role in NAMED and not node.get("name", {}).get("value"):
            html = tab.call("DOM.describeNode", backendNodeId=node["backendDOMNodeId"])["node"]
            found.append((role, html["localName"], html.get("attributes")))
    return found


def test_a_screen_reader_finds_names_and_hears_an_answer_once(browser):
    engine, tok = graded_engine("ab")
    client = Client(engine, tok)
    client.server.load_model = lambda path: tiny_model(seq_len=512)
    try:
        tab = Tab(browser, f"http://127.0.0.1:{client.port}/")
        assert nameless(tab) == []
        tab.js("document.querySelector('#look').click()")
        # The log is busy for as long as an answer grows.
        tab.js("window.seen = []; new MutationObserver(() => seen.push([running !== null, "
               "$('log').getAttribute('aria-busy')])).observe($('log'), {subtree: true, "
               "childList: true, characterData: true})")
        tab.send("hi")
        tab.wait_for_answers(1)
        seen = tab.js("seen")
        assert [True, "true"] in seen and [True, "false"] not in seen and [True, None] not in seen
        assert tab.js("$('log').getAttribute('aria-busy')") == "false"
        tab.js("document.querySelector('details.attention').open = true")
        tab.wait("document.querySelector('.attention select option')")
        tab.js("document.querySelector('.chips[role=group] .chip').focus()")
        for panel in "chats", "settings":
            tab.js(f"openPanel('{panel}', true)")
            assert nameless(tab) == [], panel
    finally:
        client.close()


def test_attention_as_a_picture(browser):
    engine, tok = graded_engine("ab")
    client = Client(engine, tok)
    model = tiny_model(seq_len=512)
    client.server.load_model = lambda path: model
    try:
        tab = Tab(browser, f"http://127.0.0.1:{client.port}/")
        tab.fill("temperature", "0")
        tab.js("document.querySelector('#look').click()")
        tab.send("hi")
        tab.wait_for_answers(1)
        tab.js("document.querySelector('details.attention').open = true")
        tab.wait("document.querySelector('.attention select option')")
        ids = prompt(tok, "hi") + [ord("a"), ord("b"), tok.special("<|assistant_end|>")]

        def says(row, layer, head):
            weights = attention(model, ids, layer)[head, row].tolist()
            best = max(range(len(ids)), key=lambda s: weights[s])
            text = tab.js("document.querySelector('.attention p').textContent")
            assert text.startswith(f"Token {row + 1}, "), text
            assert f" {100 * weights[best]:.0f} %" in text
            label = tab.js("document.querySelector('.attention canvas').getAttribute('aria-label')")
            assert label.startswith(f"Attention of layer {layer + 1}, head {head + 1}.")
            assert label.endswith(text)

        says(len(ids) - 1, 0, 0)
        pixels = ("(() => { const c = document.querySelector('.attention canvas');"
                  " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
                  ".join() })()")
        first = tab.js(pixels)
        # Up and down choose the token, the lists the layer and the head.
        tab.js("document.querySelector('.attention canvas').focus()")
        tab.key("ArrowUp", 38)
        says(len(ids) - 2, 0, 0)
        tab.key("ArrowDown", 40)
        tab.key("ArrowDown", 40)
        says(len(ids) - 1, 0, 0)
        for list, value in (0, 1), (1, 1):
            tab.js(f"(() => {{ const list = document.querySelectorAll('.attention select')[{list}];"
                   f" list.value = {value}; list.dispatchEvent(new Event('change')) }})()")
        tab.wait("document.querySelector('.attention canvas').getAttribute('aria-label')"
                 ".includes('layer 2, head 2')")
        says(len(ids) - 1, 1, 1)
        assert tab.js(pixels) != first
        # A touch in the first row chooses the first token, which sees itself alone.
        tab.js("document.querySelector('.attention canvas').scrollIntoView()")
        box = tab.js("(() => { const r = document.querySelector('.attention canvas')"
                     ".getBoundingClientRect(); return [r.x, r.y] })()")
        tab.call("Input.dispatchTouchEvent", type="touchStart",
                 touchPoints=[dict(x=box[0] + 2, y=box[1] + 2)])
        tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        tab.wait("document.querySelector('.attention p').textContent.startsWith('Token 1,')", 10)
        assert "100 %" in tab.js("document.querySelector('.attention p').textContent")
        tab.call("Emulation.setDeviceMetricsOverride", width=375, height=640, deviceScaleFactor=2,
                 mobile=True)
        assert tab.js("document.documentElement.scrollWidth") <= 375
    finally:
        client.close()


def test_every_stage_side_by_side(browser):
    engines = {name: graded_engine(text)[0]
               for name, text in [("midtrain", "<b>mid"), ("sft", "fine")]}
    client = Client(engines={name: lambda engine=engine: engine
                             for name, engine in engines.items()}, model="sft")
    # A stage that is not in memory is known by its meta.json, and these have none.
    with client.server.stages.use("midtrain"):
        pass
    try:
        tab = Tab(browser, f"http://127.0.0.1:{client.port}/")
        tab.fill("temperature", "0")
        options = tab.js("[...$('stage').options].map(e => e.textContent)")
        assert options == ["midtrain", "sft", "every stage"]
        assert tab.js("$('stage').value") == "sft"

        def choose(name):
            tab.js(f"$('stage').value = {json.dumps(name)};"
                   "$('stage').dispatchEvent(new Event('change'))")

        choose("midtrain")
        tab.send("hi")
        tab.wait_for_answers(1)
        assert tab.texts() == ["hi", "<b>mid"]
        tab.js("newChat()")
        tab.js("document.querySelector('#look').click()")
        choose("/every")
        tab.send("hi")
        tab.wait_for_answers(1)
        columns = tab.js("[...document.querySelectorAll('.column')].map(e => ["
                         "e.querySelector('h2').textContent, "
                         "e.querySelector('.chips').textContent])")
        assert columns == [["midtrain", "<b>mid<|assistant_end|>"],
                           ["sft", "fine<|assistant_end|>"]]
        assert tab.js("chat.messages[1].content") == "fine"
        # One column goes another way, and the other stays.
        tab.js("document.querySelectorAll('.column')[1].querySelector('.chip').click()")
        tab.js("document.querySelectorAll('#tops li button')[1].click()")
        tab.wait("running === null && chat.messages[1].content === 'Xine'")
        assert tab.js("chat.messages[1].stages[0].content") == "<b>mid"
        # Going on, each stage has seen its own answers.
        assert tab.js("""(() => {
            const next = {role: "assistant"};
            chat.messages.push({role: "user", content: "more"}, next);
            const seen = ["midtrain", "sft"].map(name => conversation(next, name)[1].content);
            chat.messages.splice(2);
            return seen;
        })()""") == ["<b>mid", "Xine"]
        assert tab.js("document.querySelectorAll('#log b').length") == 0
    finally:
        client.close()
