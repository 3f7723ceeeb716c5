"""
OpenAI's Responses API, in terms of the chat completions of openai_protocol.py.

    client.responses.create(model="sft", input="Who are you?").output_text

chat_body() turns a request into one for chat completions, and ResponseAnswer tells the answer in
the other API's objects and events. The server keeps no answer, so a client sends the whole
conversation each time ("store" and previous_response_id do nothing here).
"""
import time
import uuid

from talk.openai_protocol import Answer, content_of, expect

# Fields of other APIs, which would do nothing here.
FOREIGN = ("messages", "n", "echo", "include_parts", "include_tokens", "answer_ids", "max_tokens",
           "max_completion_tokens")
# What needs a server that keeps its answers.
STORED = ("previous_response_id", "conversation", "prompt", "background")
IGNORED = ("include", "max_tool_calls", "top_logprobs", "context_management")


def chat_body(body):
    """A request of the Responses API -> the same for chat completions. ApiError 400."""
    for name in FOREIGN:
        expect(name not in body, f"{name}: no such option of the Responses API", name,
               "unknown_parameter")
    for name in STORED:
        expect(not body.get(name), f"{name} is not supported by this server: send the whole "
               f"conversation as input", name, "unsupported_parameter")
    expect(not body.get("logprobs"), "logprobs: no such option of the Responses API", "logprobs",
           "unsupported_parameter")
    chat = {name: value for name, value in body.items() if name not in (*STORED, *IGNORED)}
    chat["messages"] = read_input(chat.pop("instructions", None), chat.pop("input", None))
    text = chat.pop("text", None) or {}
    expect(isinstance(text, dict), "text: expected an object", "text")
    chat["response_format"] = text.get("format")
    if isinstance(chat.get("tools"), list):
        chat["tools"] = [nested(tool) for tool in chat["tools"]]
    chat["tool_choice"] = nested(chat.get("tool_choice"))
    return chat


def nested(tool):
    """{"type": "function", "name": ...} -> {"type": "function", "function": {"name": ...}}."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    # "strict" is about how the arguments are sampled, which the model has not learned from.
    fields = {name: value for name, value in tool.items() if name not in ("type", "strict")}
    return {"type": "function", "function": fields}


def read_input(instructions, items):
    """Instructions and input, a text or a list of items -> messages of chat completions."""
    expect(instructions is None or isinstance(instructions, str),
           "instructions: expected a text", "instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    expect(isinstance(items, list) and items, "input: expected a text or a list of items", "input")
    for i, item in enumerate(items):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            fields = {name: item[name] for name in ("role", "content") if name in item}
            messages.append(fields)
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "function": function}
            last = messages[-1] if messages else {}
            if "tool_calls" in last:
                last["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"),
                             "content": item.get("output")})
        else:
            # What a model with hidden thoughts has left there says nothing to this one.
            expect(kind == "reasoning", f"input[{i}]: expected a message, a function_call or a "
                   f"function_call_output", "input")
    return messages


class ResponseAnswer(Answer):
    """The one choice of a request, as an object or as the events of the Responses API."""
    # What ends a stream.
    end = b""

    def __init__(self, request, tok, model, body):
        """body: the request, of which the object repeats some fields."""
        super().__init__(request, tok, model)
        self.response = {
            "id": "resp_" + uuid.uuid4().hex, "object": "response", "created_at": int(time.time()),
            "model": model, "status": "in_progress", "error": None, "incomplete_details": None,
            "instructions": body.get("instructions"), "output": [],
            "max_output_tokens": body.get("max_output_tokens"),
            "temperature": request.sampling.temperature, "top_p": request.sampling.top_p,
            "tools": body.get("tools") or [], "tool_choice": body.get("tool_choice") or "auto",
            "parallel_tool_calls": False, "previous_response_id": None, "store": False,
            "truncation": body.get("truncation") or "disabled",
            "text": {"format": {"type": "text"}},
            "reasoning": {"effort": None, "summary": None}, "metadata": body.get("metadata") or {},
            "user": body.get("user"), "usage": None}
        self.n_events = 0
        # The message, once it has begun.
        self.message = None

    def event(self, kind, **fields):
        self.n_events += 1
        return {"type": f"response.{kind}", **fields, "sequence_number": self.n_events - 1}

    def error_chunk(self, error):
        """What a stream says of an ApiError."""
        fields = error.body["error"]
        return self.event("error", code=fields["code"], message=fields["message"],
                          param=fields["param"]) | {"type": "error"}

    def first_chunks(self):
        return [self.event("created", response=self.response),
                self.event("in_progress", response=self.response)]

    def chunks(self, news):
        """What feed() returned -> the events that tell it to the client."""
        out = []
        for parts in news.values():
            text = content_of(parts)
            if text:
                out += self.begin_message()
                out.append(self.event("output_text.delta", **self.place(), delta=text, logprobs=[]))
        finish = self.choices[0].finish
        if finish:
            # There is always an item, if need be an empty message.
            if finish != "call":
                out += self.begin_message()
            if self.message:
                out += self.end_message(finish)
            if finish == "call":
                out += self.call_events()
        return out

    def place(self):
        """The fields that say where the text of the message is."""
        return {"item_id": self.message["id"], "output_index": 0, "content_index": 0}

    def begin_message(self):
        """The events that open the message, if it is not yet open."""
        if self.message:
            return []
        self.message = {"id": "msg_" + uuid.uuid4().hex, "type": "message", "role": "assistant",
                        "status": "in_progress", "content": []}
        return [self.event("output_item.added", output_index=0, item=self.message),
                self.event("content_part.added", **self.place(), part=text_part(""))]

    def end_message(self, finish):
        """Put the message into the response -> the events that say so."""
        part = text_part(content_of(self.choices[0].parts))
        status = "incomplete" if finish == "length" else "completed"
        self.message = self.message | {"status": status, "content": [part]}
        self.response["output"].append(self.message)
        return [self.event("output_text.done", **self.place(), text=part["text"], logprobs=[]),
                self.event("content_part.done", **self.place(), part=part),
                self.event("output_item.done", output_index=0, item=self.message)]

    def call_events(self):
        """Put the call of a tool into the response -> the events that say so."""
        call = self.call(self.choices[0])
        arguments = call["function"]["arguments"]
        item = {"id": "fc_" + uuid.uuid4().hex, "type": "function_call", "call_id": call["id"],
                "name": call["function"]["name"], "arguments": arguments, "status": "completed"}
        place = {"output_index": len(self.response["output"])}
        self.response["output"].append(item)
        opening = item | {"arguments": "", "status": "in_progress"}
        return [self.event("output_item.added", **place, item=opening),
                self.event("function_call_arguments.delta", **place, item_id=item["id"],
                           delta=arguments),
                self.event("function_call_arguments.done", **place, item_id=item["id"],
                           name=item["name"], arguments=arguments),
                self.event("output_item.done", **place, item=item)]

    def last_chunks(self):
        response = self.ended()
        return [self.event(response["status"], response=response)]

    def whole(self):
        """The whole answer, for a request that does not stream."""
        self.chunks({0: self.choices[0].parts})
        return self.ended()

    def ended(self):
        usage = self.usage()
        details = None
        if self.choices[0].finish == "length":
            details = {"reason": "max_output_tokens"}
        return self.response | {
            "status": "incomplete" if details else "completed", "incomplete_details": details,
            "usage": {"input_tokens": usage["prompt_tokens"],
                      "input_tokens_details": {"cached_tokens": 0},
                      "output_tokens": usage["completion_tokens"],
                      "output_tokens_details": {"reasoning_tokens": 0},
                      "total_tokens": usage["total_tokens"]}}


def text_part(text):
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
