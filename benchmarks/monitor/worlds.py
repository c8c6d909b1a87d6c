"""Real data in time order, each with a model's answers to it: US census employment, bike sharing, Elec2.

Each world says which rows the reference is taken from, and cuts the rest into parts: the first are rows of the same
time as the reference, in random order, where nothing changes; then what came later.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from mnist import Array, folder_of_data

REFERENCE = 8192


@dataclass(frozen=True, eq=False)
class World:
    """``inputs`` by name, each [rows]; ``answers`` [rows, classes] or [rows]; ``truth`` [rows]: classes, or numbers.

    ``parts`` are rows by name, in the order in which they come; the first one is quiet.
    """

    name: str
    inputs: Mapping[str, Array]
    answers: Array
    truth: Array
    reference: Array
    parts: Mapping[str, Array]

    def of(self, rows: Array) -> tuple[dict[str, Array], Array, Array]:
        """Inputs, answers and truth of some rows."""
        return {name: column[rows] for name, column in self.inputs.items()}, self.answers[rows], self.truth[rows]


def shuffled(rows: Array, seed: int) -> Array:
    """In random order, the same for a seed."""
    return np.random.default_rng(seed).permutation(rows)


def employment(seed: int = 0) -> World:
    """Massachusetts, year by year (Folktables, Ding et al. 2021), with the answers of NannyML's model."""
    import pandas as pd

    folder = folder_of_data() / "employment"
    before = pd.read_parquet(folder / "employment_MA_reference.pq")
    later = pd.read_parquet(folder / "employment_MA_analysis.pq")
    truth = pd.read_parquet(folder / "employment_MA_analysis_target.pq")
    later["employed"] = truth["employed"].to_numpy()
    table = pd.concat([before, later], ignore_index=True)
    years = table.pop("year").to_numpy()
    truth = table.pop("employed").to_numpy().astype(int)
    chance = table.pop("predicted_probability").to_numpy().astype(np.float32)
    table = table.drop(columns=[name for name in ("id", "prediction") if name in table])
    inputs = {name: table[name].to_numpy().astype(np.float32) for name in table}
    first = shuffled(np.flatnonzero(np.arange(len(years)) < len(before)), seed)
    parts = {f"{min(years[first])} (quiet)": first[REFERENCE:]}
    rest = np.arange(len(before), len(years))
    parts |= {str(year): shuffled(rest[years[rest] == year], seed) for year in sorted(set(years[rest]))}
    return World("employment", inputs, np.stack([1 - chance, chance], 1), truth, first[:REFERENCE], parts)


def bike(seed: int = 0) -> World:
    """Bikes an hour in Washington (Fanaee-T & Gama 2013): a model of 2011, and then 2012."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    with zipfile.ZipFile(folder_of_data() / "bike" / "bike_sharing_dataset.zip") as file:
        text = file.read("hour.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    names = ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed")
    inputs = {name: np.array([float(row[name]) for row in rows], np.float32) for name in names}
    truth = np.array([float(row["cnt"]) for row in rows])
    year = np.array([row["yr"] for row in rows])
    first = shuffled(np.flatnonzero(year == "0"), seed)
    learnt, first = first[:3000], first[3000:]
    x = np.stack(list(inputs.values()), 1)
    answers = HistGradientBoostingRegressor(random_state=seed).fit(x[learnt], truth[learnt]).predict(x)
    reference = first[: len(first) // 2]
    later = np.flatnonzero(year == "1")
    parts = {"2011 (quiet)": first[len(first) // 2 :], "2012, in random order": shuffled(later, seed), "2012": later}
    return World("bike", inputs, answers.astype(np.float32), truth, reference, parts)


def elec2(seed: int = 0) -> World:
    """Elec2 (Harries 1999): does the price of electricity rise? The neighbour's market opens after two fifths of it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = np.genfromtxt(folder_of_data() / "elec2" / "elec.csv", delimiter=",", names=True)
    names = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
    inputs = {name: table[name].astype(np.float32) for name in names}
    truth = table["class"].astype(int)
    x = np.stack(list(inputs.values()), 1)
    opened = int(np.flatnonzero(x[:, 3] != x[0, 3])[0])
    before = shuffled(np.arange(opened // 2), seed)
    learnt, reference, quiet = np.split(before, [len(before) // 3, 2 * len(before) // 3])
    model = HistGradientBoostingClassifier(random_state=seed).fit(x[learnt], truth[learnt])
    parts = {
        "first months (quiet)": quiet,
        "until the neighbour's market opens": np.arange(opened // 2, opened),
        "after": np.arange(opened, len(x)),
    }
    return World("Elec2", inputs, model.predict_proba(x).astype(np.float32), truth, reference[:REFERENCE], parts)


WORLDS: dict[str, Callable[[int], World]] = {"employment": employment, "bike": bike, "elec2": elec2}
