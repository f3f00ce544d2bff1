"""What the broker is compared with: the least that can be sent, and what one would write without a thought."""

import json
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]


def bare(headers: Headers, body: bytes) -> ASGIApp:
    """Sends the same bytes whatever it is asked."""
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    end = {"type": "http.response.body", "body": body}

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start)
        await send(end)

    return app


class Token(BaseModel):
    """The broker's answer."""

    access_token: str
    token_type: str
    scope: str | None
    expires_in: int
    expires_at: str


def ordinary(redis_url: str, key: str) -> FastAPI:
    """One route that checks a key, reads its token from Redis and lets FastAPI write the answer."""
    redis, app = Redis.from_url(redis_url), FastAPI()

    async def caller(request: Request) -> str:
        if request.headers.get("authorization") != f"Bearer {key}":
            raise HTTPException(401)
        return "crm"

    @app.get("/tokens/{user}", response_model=Token)
    async def token(user: str, _caller: Annotated[str, Depends(caller)]) -> object:
        found = await redis.get(user)
        if found is None:
            raise HTTPException(404)
        return json.loads(found)

    return app
