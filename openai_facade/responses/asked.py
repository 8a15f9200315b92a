"""A checked request with all that it names: what a response is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp_server.llm import ChatRequest, Model
from openai_facade.agent_chat import Joined
from openai_facade.responses.agent_runs import Continued
from openai_facade.responses.approvals import Answered
from openai_facade.responses.context import Context
from openai_facade.responses.tools import ToolSet
from openai_facade.translate.agent_variables import variable_metadata
from openai_facade.translate.response_messages import messages_of_items
from openai_facade.translate.response_object import Item
from openai_facade.translate.response_request import chat_request
from openai_facade.translate.response_search import Sources
from openai_facade.wire.responses import conversation_id


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request with all that it names; without `model` an agent answers, of id `known_as`.

    `previous` is the stored response that it goes on from. If it only answers what an agent's run asked, that run is `continued`.
    """

    body: dict[str, Any]
    context: Context
    tools: ToolSet
    answered: list[Answered]
    model: Model | None
    known_as: str
    previous: str | None
    continued: Continued | None = None

    @property
    def joined(self) -> Joined | None:
        """The conversation that an agent's run goes on with, if the request names one."""
        conversation = conversation_id(self.body)
        return None if conversation is None else Joined(conversation, self.context.own)

    def chat(self, made: list[Item], sources: Sources) -> ChatRequest:
        """Give the chat request: instructions, what it goes on from, its input, and what was `made` since.

        What searches among them found is taken into `sources`. Of the metadata an agent gets its variables.
        """
        context = self.context
        items = context.readable([*context.instructions, *context.items, *made])
        sources.files.clear()
        messages = messages_of_items(items, sources)
        tools = self.tools
        shown = [*tools.shown, *tools.made]
        request = chat_request(self.body, self.known_as, messages, shown, tools.choice)
        if tools.made:  # the loop adds these itself
            request["tools"] = tools.shown
        if self.model is None:
            request["metadata"] = variable_metadata(self.body)
        return request
