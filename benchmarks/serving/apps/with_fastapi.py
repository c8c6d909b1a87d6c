"""FastAPI as people write it by hand: a pydantic model of the rows, one run for each request."""

import os

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from session import session

app, model = FastAPI(), session()


class Rows(BaseModel):
    rows: list[list[float]]


@app.post("/predict")
async def predict(asked: Rows) -> dict[str, list[list[float]]]:
    return {"y": model.run(None, {"x": np.asarray(asked.rows, np.float32)})[0].tolist()}


uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False)
