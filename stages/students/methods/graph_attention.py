"""Graph attention: samples that many others resemble teach more, and resemblances are taught along with answers.

The rows of a batch are the nodes of a graph; its edges lead to the most similar others, and carry attention as in
Velickovic et al., "Graph Attention Networks", ICLR 2018 (arXiv:1710.10903), equations 1 to 3, with the cosine of what
teacher and student say in the place of a learned score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from stages.students.methods._graph import others, real
from stages.students.methods.base import DISTRIBUTIONS, AlphaConfig, Method, Needs, SharedRows, teacher_logits, wide

if TYPE_CHECKING:
    from torch import Tensor


class GraphAttentionConfig(AlphaConfig):
    """Settings of `graph-attention`."""

    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student."""
    neighbours: PositiveInt = 8
    """Edges of a sample, at most: to the most similar others of its batch."""
    sharpness: PositiveFloat = 10.0
    """How far attention gathers on the most similar of them."""
    edges: NonNegativeFloat = 1.0
    """Weight of the edges beside that of the nodes."""


class GraphAttention(Method):
    """With p_i, q_i the probabilities of teacher and student at T, and h_i = (p_i, q_i) of length 1, without gradient:

    a_ij    softmax over the neighbours j of i of sharpness * h_i h_j
    nodes   T^2 * sum of c_i KL(p_i || q_i) / sum of c_i, where c_i = sum over j of a_ji is the attention that i gets
    edges   mean over i of sum over j of a_ij (cos(q_i, q_j) - cos(p_i, p_j))^2

    The loss is nodes + edges * weight. A batch of one row has no edges and is plain soft labels.
    """

    Config = GraphAttentionConfig

    @property
    def needs(self) -> Needs:
        return Needs(encodings=DISTRIBUTIONS, temperatures=(float(self.config.temperature),), pairs=True)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, normalize

        tau = self.config.temperature
        ours, theirs = (
            torch.log_softmax(logits / tau, dim=1)
            for logits in real(rows.weights_B, wide(rows.student_BC), teacher_logits(rows, tau))
        )
        kl_B = kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        if len(kl_B) < 2:
            return kl_B.mean().mul(tau**2)
        q, p = normalize(ours.exp(), dim=1), normalize(theirs.exp(), dim=1)
        h = normalize(torch.cat([theirs.exp(), ours.detach().exp()], dim=1), dim=1)
        score_BB = (self.config.sharpness * h @ h.T).masked_fill(~others(h), -torch.inf)
        least_B1 = score_BB.topk(min(self.config.neighbours, len(h) - 1), dim=1).values[:, -1:]
        attention_BB = torch.softmax(score_BB.masked_fill(score_BB < least_B1, -torch.inf), dim=1)
        got_B = attention_BB.sum(dim=0)
        edges = (attention_BB * (q @ q.T - p @ p.T).square()).sum(dim=1).mean()
        loss: Tensor = tau**2 * (got_B * kl_B).sum() / got_B.sum() + self.config.edges * edges
        return loss


METHOD = GraphAttention
