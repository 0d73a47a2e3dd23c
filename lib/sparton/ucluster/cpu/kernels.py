"""Loops over nodes and edges, compiled by Numba; each works on a range of rows or jets and holds no lock.

Shapes: M nodes with C channels, k neighbours at most, B jets. All real numbers are float32, all positions int32. The
edges of a node exist only inside a loop: k C values that stay in the first-level cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Sums may be reordered, so that they use vector registers; NaN and infinity keep their meaning.
FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}
ZERO = np.float32(0)
TURN, PER_TURN, HALF = np.float32(2 * math.pi), np.float32(0.5 / math.pi), np.float32(0.5)
MINUS_TWO = np.float32(-2)
WRAP_START, WRAP_SLOPE = np.float32(4 * math.pi**2), np.float32(4 * math.pi)


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled, from the cache on disk where there is room for one."""
    return _compile(function, fastmath=FAST_MATH)


def rounded(function: Callable[..., Any]) -> Any:
    """Return the function compiled so that each operation is done where it stands, and rounded."""
    return _compile(function)


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep a cache, as in a zip on Spark's path
        return numba.njit(**options)(function)


@compiled
def _select(distance, n, skip, best, slot):
    """Put the nearest of ``n`` points but ``skip`` into ``slot``, nearest first, of equal ones the earlier first.

    Returns how many there are, at most as many as there is room for.
    """
    k = slot.size
    found = 0
    for j in range(n):
        if j == skip:
            continue
        here = distance[j]
        if found < k:
            position = found
            found += 1
        elif here < best[k - 1]:
            position = k - 1
        else:
            continue
        while position > 0 and best[position - 1] > here:
            best[position] = best[position - 1]
            slot[position] = slot[position - 1]
            position -= 1
        best[position] = here
        slot[position] = j
    return found


@compiled
def _others(distance, n, i, first, neighbour, best, slot):
    """Write the nearest others of node ``i`` of a jet, and return how many there are."""
    k = neighbour.shape[1]
    row = first + i
    found = _select(distance, n, i, best, slot)
    for e in range(found):
        neighbour[row, e] = first + slot[e]
    fill = first + slot[0] if found > 0 else row
    for e in range(found, k):
        neighbour[row, e] = fill
    return found


@compiled
def nearest_angles(low, high, eta, phi, offsets, neighbour, degree):
    """Fill ``neighbour`` [M, k] and ``degree`` [M] of jets ``low .. high - 1`` by distance in eta and periodic phi."""
    k = neighbour.shape[1]
    best, slot = np.empty(k, np.float32), np.empty(k, np.int32)
    distance = np.empty(_longest(low, high, offsets), np.float32)
    for jet in range(low, high):
        first = offsets[jet]
        n = offsets[jet + 1] - first
        for i in range(n):
            for j in range(n):
                d_eta = eta[first + j] - eta[first + i]
                d_phi = phi[first + j] - phi[first + i]
                d_phi -= TURN * np.floor(d_phi * PER_TURN + HALF)
                distance[j] = d_eta * d_eta + d_phi * d_phi
            degree[first + i] = _others(distance, n, i, first, neighbour, best, slot)


@compiled
def nearest_points(low, high, points, offsets, neighbour, degree):
    """Fill ``neighbour`` and ``degree`` of jets ``low .. high - 1`` by Euclidean distance of points [M, C]."""
    k, channels = neighbour.shape[1], points.shape[1]
    best, slot = np.empty(k, np.float32), np.empty(k, np.int32)
    longest = _longest(low, high, offsets)
    distance = np.empty((longest, longest), np.float32)
    for jet in range(low, high):
        first = offsets[jet]
        n = offsets[jet + 1] - first
        for i in range(n):
            for j in range(i):
                total = ZERO
                for c in range(channels):
                    step = points[first + i, c] - points[first + j, c]
                    total += step * step
                distance[i, j] = total
                distance[j, i] = total
        for i in range(n):
            degree[first + i] = _others(distance[i], n, i, first, neighbour, best, slot)


@rounded
def nearest_slots(low, high, products, squares, angle, shift, offsets, neighbour):
    """Fill ``neighbour`` [M, k] of jets ``low .. high - 1`` by the distances of slots, themselves included.

    These are ``s_i - 2 p_ij + s_j + w_ij + h_i + h_j``, added in this order and rounded each time, with ``w_ij`` not 0
    only where two angles differ by a full turn. A jet's slots from its last node on are that node.
    """
    slots, k = products.shape[1], neighbour.shape[1]
    best, slot = np.empty(k, np.float32), np.empty(k, np.int32)
    distance = np.empty(slots, np.float32)
    for jet in range(low, high):
        first, last = offsets[jet], offsets[jet + 1] - 1
        square, turned, far = squares[jet], angle[jet], shift[jet]
        for i in range(last + 1 - first):
            product = products[jet, i]
            for j in range(slots):
                turn = abs(turned[j] - turned[i])
                wrapped = WRAP_START - WRAP_SLOPE * turn if turn >= TURN else ZERO
                distance[j] = square[i] + MINUS_TWO * product[j] + square[j] + wrapped + far[i] + far[j]
            _select(distance, slots, -1, best, slot)
            for e in range(k):
                neighbour[first + i, e] = min(first + slot[e], last)


@compiled
def _longest(low, high, offsets):
    longest = 0
    for jet in range(low, high):
        longest = max(longest, offsets[jet + 1] - offsets[jet])
    return longest


@compiled
def edge_sums(low, high, nodes, weight, neighbour, degree, total, squares):
    """Add ``x_i - x_j`` over the edges of nodes ``low .. high - 1``, weighted by node, and the squares, to [C] each."""
    channels = nodes.shape[1]
    one, two = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    for i in range(low, high):
        here, share = nodes[i], weight[i]
        for e in range(degree[i]):
            there = nodes[neighbour[i, e]]
            for c in range(channels):
                step = here[c] - there[c]
                one[c] += share * step
                two[c] += share * step * step
    total += one
    squares += two


@compiled
def edge_sums_backward(low, high, nodes, weight, neighbour, degree, d_total, d_squares, d_nodes):
    """Add the gradient of :func:`edge_sums` to ``d_nodes``."""
    channels = nodes.shape[1]
    own, line = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for i in range(low, high):
        here, share = nodes[i], weight[i]
        for c in range(channels):
            own[c] = ZERO
        for e in range(degree[i]):
            j = neighbour[i, e]
            there = nodes[j]
            for c in range(channels):
                line[c] = share * (d_total[c] + 2 * (here[c] - there[c]) * d_squares[c])
            for c in range(channels):
                own[c] += line[c]
            d_there = d_nodes[j]
            for c in range(channels):
                d_there[c] -= line[c]
        d_here = d_nodes[i]
        for c in range(channels):
            d_here[c] += own[c]


@compiled
def edge_scores(low, high, nodes, neighbour, degree, scale, shift, weight, scores):
    """Write ``w . ReLU((x_i - x_j) scale + shift)`` [M, k] of nodes ``low .. high - 1``; 0 where there is no edge."""
    k, channels = neighbour.shape[1], nodes.shape[1]
    base = np.empty(channels, np.float32)
    for i in range(low, high):
        for c in range(channels):
            base[c] = nodes[i, c] * scale[c] + shift[c]
        for e in range(degree[i]):
            there = nodes[neighbour[i, e]]
            value = ZERO
            for c in range(channels):
                value += max(base[c] - there[c] * scale[c], ZERO) * weight[c]
            scores[i, e] = value
        for e in range(degree[i], k):
            scores[i, e] = ZERO


@compiled
def edge_scores_backward(
    low, high, nodes, neighbour, degree, scale, shift, weight, d_scores, d_nodes, d_scale, d_shift, d_weight
):
    """Add the gradients of :func:`edge_scores` to ``d_nodes`` and the [C] sums."""
    channels = nodes.shape[1]
    base, blend, line = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    of_scale, of_shift = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    of_weight = np.zeros(channels, np.float32)
    for i in range(low, high):
        here = nodes[i]
        for c in range(channels):
            base[c] = here[c] * scale[c] + shift[c]
            blend[c] = ZERO
        for e in range(degree[i]):
            j, slope = neighbour[i, e], d_scores[i, e]
            there = nodes[j]
            for c in range(channels):
                edge = max(base[c] - there[c] * scale[c], ZERO)
                of_weight[c] += slope * edge
                d_edge = slope * weight[c] if edge > ZERO else ZERO
                blend[c] += d_edge
                of_scale[c] -= d_edge * there[c]
                line[c] = d_edge * scale[c]
            d_there = d_nodes[j]
            for c in range(channels):
                d_there[c] -= line[c]
        for c in range(channels):
            of_scale[c] += blend[c] * here[c]
            of_shift[c] += blend[c]
            line[c] = blend[c] * scale[c]
        d_here = d_nodes[i]
        for c in range(channels):
            d_here[c] += line[c]
    d_scale += of_scale
    d_shift += of_shift
    d_weight += of_weight


@compiled
def mix_edges(low, high, nodes, neighbour, degree, scale, shift, shares, mixed, peak):
    """Write the edges' mean by ``shares`` [M, k] and their maximum, [M, C] each, of nodes ``low .. high - 1``."""
    channels = nodes.shape[1]
    base, blend = np.empty(channels, np.float32), np.empty(channels, np.float32)
    highest = np.empty(channels, np.float32)
    for i in range(low, high):
        for c in range(channels):
            base[c] = nodes[i, c] * scale[c] + shift[c]
            blend[c] = ZERO
            highest[c] = ZERO
        for e in range(degree[i]):
            there, share = nodes[neighbour[i, e]], shares[i, e]
            for c in range(channels):
                edge = max(base[c] - there[c] * scale[c], ZERO)
                blend[c] += share * edge
                highest[c] = max(highest[c], edge)
        of_mixed, of_peak = mixed[i], peak[i]
        for c in range(channels):
            of_mixed[c] = blend[c]
            of_peak[c] = highest[c]


@compiled
def mix_edges_backward(
    low, high, nodes, neighbour, degree, scale, shift, shares, d_mixed, d_peak, d_nodes, d_shares, d_scale, d_shift
):
    """Add the gradients of :func:`mix_edges` to ``d_nodes`` and the [C] sums, and write ``d_shares`` [M, k].

    A maximum that several edges share is passed to the first of them.
    """
    k, channels = neighbour.shape[1], nodes.shape[1]
    base, blend, line = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    highest, first = np.empty(channels, np.float32), np.empty(channels, np.int32)
    edges = np.empty((k, channels), np.float32)
    of_scale, of_shift = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    for i in range(low, high):
        here, mixed, peak = nodes[i], d_mixed[i], d_peak[i]
        for c in range(channels):
            base[c] = here[c] * scale[c] + shift[c]
            blend[c] = ZERO
            highest[c] = ZERO
            first[c] = -1
        for e in range(degree[i]):
            there, edge = nodes[neighbour[i, e]], edges[e]
            along = ZERO
            for c in range(channels):
                encoded = max(base[c] - there[c] * scale[c], ZERO)
                edge[c] = encoded
                along += encoded * mixed[c]
            for c in range(channels):
                first[c] = np.int32(e) if edge[c] > highest[c] else first[c]
                highest[c] = max(highest[c], edge[c])
            d_shares[i, e] = along
        for e in range(degree[i], k):
            d_shares[i, e] = ZERO
        for e in range(degree[i]):
            j, share = neighbour[i, e], shares[i, e]
            there, edge = nodes[j], edges[e]
            for c in range(channels):
                d_edge = share * mixed[c] + (peak[c] if first[c] == e else ZERO)
                d_edge = d_edge if edge[c] > ZERO else ZERO
                blend[c] += d_edge
                of_scale[c] -= d_edge * there[c]
                line[c] = d_edge * scale[c]
            d_there = d_nodes[j]
            for c in range(channels):
                d_there[c] -= line[c]
        for c in range(channels):
            of_scale[c] += blend[c] * here[c]
            of_shift[c] += blend[c]
            line[c] = blend[c] * scale[c]
        d_here = d_nodes[i]
        for c in range(channels):
            d_here[c] += line[c]
    d_scale += of_scale
    d_shift += of_shift


@compiled
def column_sums(low, high, rows, weight, total, squares):
    """Add rows ``low .. high - 1`` of [M, C], each weighted, and their squares, to [C] each."""
    channels = rows.shape[1]
    one, two = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    for i in range(low, high):
        row, share = rows[i], weight[i]
        for c in range(channels):
            one[c] += share * row[c]
            two[c] += share * row[c] * row[c]
    total += one
    squares += two


@compiled
def scaled_relu(low, high, rows, scale, shift, result):
    """Write ``ReLU(x scale + shift)`` of rows ``low .. high - 1``."""
    channels = rows.shape[1]
    line = np.empty(channels, np.float32)
    for i in range(low, high):
        row = rows[i]
        for c in range(channels):
            line[c] = max(row[c] * scale[c] + shift[c], ZERO)
        of_result = result[i]
        for c in range(channels):
            of_result[c] = line[c]


@compiled
def scaled_relu_backward(low, high, rows, scale, shift, d_result, d_rows, d_scale, d_shift):
    """Write the gradient of :func:`scaled_relu` for the rows, and add those for scale and shift."""
    channels = rows.shape[1]
    one, two = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    line = np.empty(channels, np.float32)
    for i in range(low, high):
        row, d_row = rows[i], d_result[i]
        for c in range(channels):
            slope = d_row[c] if row[c] * scale[c] + shift[c] > ZERO else ZERO
            one[c] += slope * row[c]
            two[c] += slope
            line[c] = slope * scale[c]
        of_rows = d_rows[i]
        for c in range(channels):
            of_rows[c] = line[c]
    d_scale += one
    d_shift += two


@compiled
def column_sums_backward(low, high, rows, weight, d_total, d_squares, d_carried, d_rows):
    """Write the gradient through the sums, added to that of the rows themselves."""
    channels = rows.shape[1]
    line = np.empty(channels, np.float32)
    for i in range(low, high):
        row, d_row, share = rows[i], d_carried[i], weight[i]
        for c in range(channels):
            line[c] = d_row[c] + share * (d_total[c] + 2 * row[c] * d_squares[c])
        of_rows = d_rows[i]
        for c in range(channels):
            of_rows[c] = line[c]
