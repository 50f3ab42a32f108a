"""The model of tables keeps the contract of backends, so that tests may stand on it."""

from __future__ import annotations

import pytest
import torch
from contract import ModelContract
from table_model import TableModel
from torch import Tensor

from nbce_rag.models.model import Can, Model, TokenIds


class TestTable(ModelContract):
    @pytest.fixture
    def model(self) -> Model:
        return TableModel()

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        assert isinstance(model, TableModel)
        return torch.stack([model.table(ids[: end + 1]) for end in range(len(ids))])


class TestTableThatCanLittle(TestTable):
    @pytest.fixture
    def model(self) -> Model:
        return TableModel(can=Can(likelihood=False, rewind=False, repeat=False, grammar=False))
