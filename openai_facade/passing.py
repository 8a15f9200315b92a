"""Requests that this server does not answer itself: passed on to an upstream that can, as they are."""

from __future__ import annotations

from typing import Any

import orjson

from mcp_server.errors import AppError
from mcp_server.llm.metered import Spent
from openai_facade.exchange import Exchange
from openai_facade.facade import Facade
from openai_facade.wire.faults import missing, unsupported, wrong_type
from openai_facade.wire.fields import as_string
from openai_facade.wire.forms import Form

_JSON = "application/json"
_FORM = "multipart/form-data"


class Passing:
    """One kind of request: `served` is what an upstream must serve, `path` where it takes it."""

    def __init__(
        self,
        facade: Facade,
        served: str,
        path: str,
        *,
        forms: bool = False,
        names_model: bool = True,
    ) -> None:
        self._facade = facade
        self._served = served
        self._path = path
        self._forms = forms
        self._names_model = names_model

    async def __call__(self, exchange: Exchange) -> None:
        """Pass a request on, and its answer back as it comes; a client that leaves ends both.

        Raises:
            InvalidRequest: it is malformed, or no upstream here serves it.
            AppError: the upstream refused or failed before its answer began.
        """
        request = await self._read(exchange)
        name = request.model or "default"
        facade = self._facade
        async with (
            exchange.while_connected(),
            facade.asking(exchange, f"model://{name}"),
        ):
            found = await facade.router.passing(self._served, request.model)
            if found is None:
                raise self._unserved(request.model)
            upstream, known_as = found
            data = request.encoded(known_as)
            outcome = "cancelled"
            try:
                async with upstream.raw(self._path, data, request.content_type) as answer:
                    await exchange.pass_on(answer.content_type, answer.pieces)
                outcome = "ok"
            except AppError as error:
                outcome = error.code
                raise
            finally:
                # Not under the id that was sent: it may be anything, and each would be a series of its own.
                name = f"{upstream.name}/{self._served}"
                facade.services.models.usage.note(Spent(name, outcome))

    async def _read(self, exchange: Exchange) -> _Request:
        kind = exchange.content_type
        if self._forms and kind.partition(";")[0].strip().lower() == _FORM:
            form = Form(await exchange.read_bytes(), kind)
            request = _Request(kind, form.field("model"), form=form)
        else:
            body = await exchange.read_object()
            model = body.get("model")
            if model is not None:
                as_string("model", model)
            request = _Request(_JSON, model, body=body)
        if request.model is None and self._names_model:
            raise missing("model")
        if request.model == "":
            raise wrong_type("model", "the id of a model", None)
        return request

    def _unserved(self, model: str | None) -> AppError:
        return unsupported(
            "model",
            f"no upstream of this server serves {self._served} for {model or 'any model'!r}. Its operator can name "
            f'one in isthmus.toml: [upstreams.NAME] with serves = ["{self._served}"] (ISTHMUS_UPSTREAMS).',
        )


class _Request:
    def __init__(
        self,
        content_type: str,
        model: str | None,
        *,
        form: Form | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        self.content_type = content_type
        self.model = model
        self._form = form
        self._body = body or {}

    def encoded(self, known_as: str | None) -> bytes:
        """Give the body with the id that the upstream knows."""
        if self._form is not None:
            if known_as is None or known_as == self.model:
                return self._form.data
            return self._form.with_field("model", known_as)
        if self.model is not None:
            return orjson.dumps({**self._body, "model": known_as})
        return orjson.dumps(self._body)
