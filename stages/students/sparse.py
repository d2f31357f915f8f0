"""Divergence of the student from its teacher, row by row; from a sparse one without a target of rows times classes.

With u = z / tau the student's softened logits, q their softmax, p_i the teacher's kept probabilities and p_t the rest
(the tail):

    bucket   KL over kept classes and one bucket: sum p_i (log p_i - log q_i) + p_t (log p_t - log q_t),
             q_t the student's mass on all classes not kept; by u: kept q_i - p_i, tail q_j (1 - p_t / q_t)
    spread   KL over all classes, p_t / n on each of the n not kept; by u: kept q_i - p_i, tail q_j - p_t / n

Both equal the dense divergence where every class is kept. The tail's mass is summed over its own classes, since
1 - sum q_i cancels. One softmax, one sum and one product over (B, C): the buffer of the softmax becomes the gradient.

Shapes: B rows, C classes, K kept classes. tau: temperature, no unit. Losses: nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from stages.students.teacher import SparseTeacher, TeacherRows

TINY = 1e-30
"""Probability below which float32 no longer says how small something is."""


def divergence(student_BC: Tensor, teacher: TeacherRows, tau: float, spread: bool = False) -> Tensor:
    """tau**2 * KL(teacher || student) of each row (B,), both softened by tau, whatever the labels keep.

    `spread`: with sparse labels, whether the tail is spread over its classes or one bucket.
    """
    if isinstance(teacher, SparseTeacher):
        return sparse_divergence(student_BC, teacher, tau, spread)
    student = torch.log_softmax(student_BC / tau, dim=1)
    target = torch.log_softmax(teacher.dense(tau).to(student_BC.dtype) / tau, dim=1)
    kl_B: Tensor = kl_div(student, target, reduction="none", log_target=True).sum(dim=1)
    return tau**2 * kl_B


def sparse_divergence(student_BC: Tensor, teacher: SparseTeacher, tau: float, spread: bool) -> Tensor:
    """tau**2 * KL(teacher || student) of each row (B,), both softened by tau; float32 or wider."""
    kept, tail = teacher.log_probabilities(tau)
    kept, tail = kept.to(student_BC.dtype), tail.to(student_BC.dtype)
    kl_B: Tensor = _Divergence.apply(
        student_BC, teacher.ids_BK, teacher.absent_BK, kept, tail, teacher.rest_B.to(student_BC.dtype), tau, spread
    )
    return kl_B


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_BC: Tensor,
        ids_BK: Tensor,
        absent_BK: Tensor | None,
        logp_BK: Tensor,
        logp_tail_B: Tensor,
        rest_B: Tensor,
        tau: float,
        spread: bool,
    ) -> Tensor:
        u_BC = student_BC if tau == 1.0 else student_BC / tau
        u_BK = u_BC.gather(1, ids_BK)
        u_sum_B = u_BC.sum(dim=1) if spread else u_BK[:, 0]
        q_BC = torch.softmax(u_BC, dim=1)
        q_BK = q_BC.gather(1, ids_BK)
        most_B1, place_B1 = q_BK.max(dim=1, keepdim=True)
        log_z_B = (u_BK.gather(1, place_B1) - most_B1.log())[:, 0]
        if bool((most_B1 < TINY).any()):
            log_z_B = torch.logsumexp(u_BC, dim=1)
        p_BK, p_tail_B = logp_BK.exp(), logp_tail_B.exp()
        logq_BK = u_BK - log_z_B[:, None]
        kl_B = _entropic(p_BK, logp_BK - logq_BK).sum(dim=1)
        q_BC.scatter_(1, ids_BK, 0.0)
        q_tail_B = q_BC.sum(dim=1)
        if spread:
            alive_BK = torch.ones_like(u_BK) if absent_BK is None else (~absent_BK).to(u_BK.dtype)
            logq_sum_B = u_sum_B - (u_BK * alive_BK).sum(dim=1) - rest_B * log_z_B
            n_B = rest_B.clamp(min=1.0)
            kl_B = kl_B + _entropic(p_tail_B, logp_tail_B - n_B.log() - logq_sum_B / n_B)
        else:
            log_tail_B = q_tail_B.log()
            lost_B = (q_tail_B < TINY) & (p_tail_B > 0)
            if bool(lost_B.any()):
                log_tail_B[lost_B] = _tail_log_mass(u_BC[lost_B], ids_BK[lost_B], log_z_B[lost_B])
            kl_B = kl_B + _entropic(p_tail_B, logp_tail_B - log_tail_B)
        change_BK = q_BK - p_BK
        if absent_BK is not None:  # filled places hold the first class: they must write what it writes
            change_BK = torch.where(absent_BK, change_BK[:, :1], change_BK)
        ctx.whole = (q_BC, q_tail_B, p_tail_B, change_BK, ids_BK, rest_B, tau, spread)
        return kl_B * tau**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.whole is None:
            raise RuntimeError("this loss gives its gradient once: its buffer became the gradient")
        q_BC, q_tail_B, p_tail_B, change_BK, ids_BK, rest_B, tau, spread = ctx.whole
        ctx.whole = None
        if spread:
            q_BC -= (p_tail_B / rest_B.clamp(min=1.0))[:, None]
        else:
            q_BC *= (1.0 - p_tail_B / q_tail_B.clamp(min=torch.finfo(q_tail_B.dtype).tiny))[:, None]
        q_BC.scatter_(1, ids_BK, change_BK)
        q_BC *= (grads[0] * tau)[:, None]
        return q_BC, None, None, None, None, None, None, None


def _entropic(p: Tensor, log_ratio: Tensor) -> Tensor:
    """p * log_ratio, 0 where p is."""
    return torch.where(p > 0, p * log_ratio, torch.zeros_like(p))


def _tail_log_mass(u_BC: Tensor, ids_BK: Tensor, log_z_B: Tensor) -> Tensor:
    """log of the student's mass on the classes not kept, for rows in which it is too small for a plain sum."""
    return torch.logsumexp(u_BC.scatter(1, ids_BK, -torch.inf), dim=1) - log_z_B
