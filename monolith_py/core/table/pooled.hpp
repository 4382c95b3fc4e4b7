// Pooled look-up and its backward pass over the tables of all features in one call. The caller holds every table's
// lock: exclusively for insertion and backward, shared for a look-up without insertion.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "table/embedding_table.hpp"

namespace monolith {

// Letters: F features, B examples of the batch, n fids. Fids are feature-major: bag b of feature f is offsets[f * B +
// b] .. offsets[f * B + b + 1].
struct Feature {
    EmbeddingTable* table;
    Pooling pooling;
    uint32_t first;  // Pooling::kFirst: number of rows of a bag that are kept

    uint32_t width() const { return table->dim() * (pooling == Pooling::kFirst ? first : 1); }
};

struct Batch {
    const std::vector<Feature>& features;
    const int64_t* offsets;  // (F * B + 1,)
    const float* scales;     // (n,) weight of each fid; null: all one
    size_t num_bags;         // B
    size_t width;            // sum over all features

    int64_t begin(size_t feature) const { return offsets[feature * num_bags]; }
    int64_t end(size_t feature) const { return offsets[(feature + 1) * num_bags]; }
    size_t size(size_t feature) const { return static_cast<size_t>(end(feature) - begin(feature)); }
    std::vector<size_t> columns() const {
        std::vector<size_t> columns(features.size(), 0);
        for (size_t f = 1; f < features.size(); ++f) columns[f] = columns[f - 1] + features[f - 1].width();
        return columns;
    }
};

// Group features into rounds; no round has a table twice.
inline std::vector<std::vector<size_t>> rounds_of(const std::vector<Feature>& features) {
    std::vector<std::vector<size_t>> rounds;
    for (size_t f = 0; f < features.size(); ++f) {
        size_t round = 0;
        for (size_t g = 0; g < f; ++g) round += features[g].table == features[f].table;
        if (round == rounds.size()) rounds.emplace_back();
        rounds[round].push_back(f);
    }
    return rounds;
}

// Pieces of work (feature, part), largest first, so that threads finish together.
struct Piece {
    size_t feature, part, parts, size;
};
inline void largest_first(std::vector<Piece>& pieces) {
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const Piece& a, const Piece& b) { return a.size / a.parts > b.size / b.parts; });
}

// Look up the fids of all features; those of a feature that `learns` are counted and inserted.
inline void look_up(const Batch& batch, const int64_t* fids, int64_t now_s, const std::vector<bool>& learns,
                    uint32_t* rows) {
    ThreadPool& pool = ThreadPool::instance();
    const auto lookup = [&](size_t f) { return Lookup{fids + batch.begin(f), batch.size(f), rows + batch.begin(f)}; };
    const std::vector<std::vector<size_t>> rounds = rounds_of(batch.features);
    AbandonInsertions guard;
    for (const Feature& feature : batch.features) guard.insertions.push_back(&feature.table->insertion());
    for (const std::vector<size_t>& round : rounds) {
        std::vector<Piece> pieces, inserts;
        for (size_t f : round) {
            const size_t size = batch.size(f), parts = batch.features[f].table->parts(size);
            // A later round must not evict rows of an earlier one: the batch uses them.
            if (learns[f])
                batch.features[f].table->insertion().begin(now_s, parts,
                                                           &round == &rounds[0] ? Shrink::kYes : Shrink::kNo);
            for (size_t p = 0; p < parts; ++p) pieces.push_back({f, p, parts, size});
        }
        largest_first(pieces);
        pool.run(pieces.size(), [&](size_t i) {
            const Piece& piece = pieces[i];
            const Lookup one = lookup(piece.feature);
            EmbeddingTable& table = *batch.features[piece.feature].table;
            if (learns[piece.feature])
                table.insertion().record_occurrences(one, piece.part);
            else
                table.find_part(one, piece.part, piece.parts);
        });
        std::vector<size_t> planned;
        for (size_t f : round)
            if (learns[f] && batch.features[f].table->insertion().plan() == Plan::kInsert) planned.push_back(f);
        for (const Piece& piece : pieces)
            if (std::find(planned.begin(), planned.end(), piece.feature) != planned.end()) inserts.push_back(piece);
        pool.run(inserts.size(), [&](size_t i) {
            const Piece& piece = inserts[i];
            batch.features[piece.feature].table->insertion().insert(lookup(piece.feature), piece.part);
        });
        for (size_t f : planned) batch.features[f].table->insertion().allocate_rows();
        pool.run(inserts.size(), [&](size_t i) {
            const Piece& piece = inserts[i];
            batch.features[piece.feature].table->insertion().start_rows(lookup(piece.feature), piece.part);
        });
        for (size_t f : round)
            if (learns[f]) batch.features[f].table->insertion().finish(lookup(f));
    }
    // A fid may get its row in a later round: then its occurrences in earlier ones have it, too.
    for (size_t r = 0; r + 1 < rounds.size(); ++r)
        for (size_t f : rounds[r])
            if (learns[f] && batch.features[f].table->settings().admit_after > 1)
                batch.features[f].table->find(fids + batch.begin(f), batch.size(f), rows + batch.begin(f));
}

inline void pooled_forward(const Batch& batch, const int64_t* fids, int64_t now_s, const std::vector<bool>& learns,
                           float* pooled, uint32_t* rows) {
    look_up(batch, fids, now_s, learns, rows);
    ThreadPool& pool = ThreadPool::instance();
    const std::vector<size_t> columns = batch.columns();
    const auto threads = static_cast<size_t>(pool.num_threads());
    std::vector<Piece> pieces;
    for (size_t f = 0; f < batch.features.size(); ++f) {
        const size_t size = batch.size(f) + batch.num_bags,
                     parts = std::min({threads, size / 4096 + 1, batch.num_bags + 1});
        for (size_t p = 0; p < parts; ++p) pieces.push_back({f, p, parts, size});
    }
    largest_first(pieces);
    pool.run(pieces.size(), [&](size_t i) {
        const auto [f, part, parts, size] = pieces[i];
        const Feature& feature = batch.features[f];
        kernels().pool({
            .table = feature.table->rows(),
            .rows = rows,
            .offsets = batch.offsets + f * batch.num_bags,
            .scales = batch.scales,
            .begin = batch.num_bags * part / parts,
            .end = batch.num_bags * (part + 1) / parts,
            .pooling = feature.pooling,
            .first = feature.first,
            .pooled = pooled + columns[f],
            .stride = batch.width,
        });
    });
}

// Gradients of one table, by position: address and scale. If every bag is one fid, summed and unweighted, the lists
// stay empty: position b takes the gradient of bag b.
struct TableSources {
    EmbeddingTable* table;
    std::vector<uint32_t> rows;
    std::vector<const float*> gradients;
    std::vector<float> scales;
};

inline bool is_plain(const Batch& batch, size_t f) {
    if (batch.features[f].pooling == Pooling::kFirst || batch.scales) return false;
    for (size_t g = 0; g < batch.features.size(); ++g)
        if (g != f && batch.features[g].table == batch.features[f].table) return false;
    const int64_t* bags = batch.offsets + f * batch.num_bags;
    if (batch.size(f) != batch.num_bags) return false;
    for (size_t b = 0; b < batch.num_bags; ++b)
        if (bags[b + 1] - bags[b] != 1) return false;
    return true;
}

inline void add_sources(const Batch& batch, size_t f, const uint32_t* rows, const float* gradients, size_t column,
                        TableSources& out) {
    const Feature& feature = batch.features[f];
    const int64_t* bags = batch.offsets + f * batch.num_bags;
    for (size_t b = 0; b < batch.num_bags; ++b) {
        const int64_t size = bags[b + 1] - bags[b];
        const float share = feature.pooling == Pooling::kMean && size > 1 ? 1.0f / static_cast<float>(size) : 1.0f;
        const float* gradient = gradients + b * batch.width + column;
        for (int64_t i = bags[b]; i < bags[b + 1]; ++i) {
            const auto k = static_cast<size_t>(i - bags[b]);
            if (feature.pooling == Pooling::kFirst && k >= feature.first) break;
            out.rows.push_back(rows[i]);
            out.gradients.push_back(feature.pooling == Pooling::kFirst ? gradient + k * feature.table->dim()
                                                                       : gradient);
            out.scales.push_back(batch.scales ? share * batch.scales[i] : share);
        }
    }
}

// Replace rows that were freed since the look-up, and may have another fid: by the fid's row of now, or by kNoRow.
// Returns the number of positions without a row.
inline size_t drop_freed(const Batch& batch, size_t f, const int64_t* fids, uint32_t* rows) {
    const EmbeddingTable& table = *batch.features[f].table;
    size_t num_dropped = 0;
    for (auto i = batch.begin(f); i < batch.end(f); ++i) {
        if (rows[i] >= kCandidate || table.fid(rows[i]) == fids[i]) continue;
        table.find(&fids[i], 1, &rows[i]);
        num_dropped += rows[i] == kNoRow;
    }
    return num_dropped;
}

// Returns the number of updated rows.
inline size_t pooled_backward(const Batch& batch, const uint32_t* rows, const float* gradients) {
    ThreadPool& pool = ThreadPool::instance();
    const std::vector<size_t> columns = batch.columns();
    std::vector<std::pair<size_t, std::vector<size_t>>> tables;  // first feature and all features of each table
    for (size_t f = 0; f < batch.features.size(); ++f) {
        const auto same = [&](const auto& one) { return batch.features[one.first].table == batch.features[f].table; };
        if (const auto found = std::find_if(tables.begin(), tables.end(), same); found != tables.end())
            found->second.push_back(f);
        else
            tables.push_back({f, {f}});
    }
    std::vector<TableSources> sources(tables.size());
    pool.run(tables.size(), [&](size_t t) {
        const auto& [first, features] = tables[t];
        sources[t].table = batch.features[first].table;
        if (!is_plain(batch, first))
            for (size_t f : features) add_sources(batch, f, rows, gradients, columns[f], sources[t]);
    });
    std::vector<Piece> pieces;
    for (size_t t = 0; t < tables.size(); ++t) {
        size_t size = 0;
        for (size_t f : tables[t].second) size += batch.size(f);
        const size_t parts = UpdateStep::parts(size);
        sources[t].table->update_step().begin(parts, size);
        for (size_t p = 0; p < parts; ++p) pieces.push_back({t, p, parts, size});
    }
    largest_first(pieces);
    pool.run(pieces.size(), [&](size_t i) {
        const TableSources& own = sources[pieces[i].feature];
        const size_t f = tables[pieces[i].feature].first;
        UpdateStep& step = own.table->update_step();
        if (own.rows.empty())
            step.run(rows + batch.begin(f), batch.size(f), {gradients + columns[f], batch.width, nullptr, nullptr},
                     pieces[i].part);
        else
            step.run(own.rows.data(), own.rows.size(), {nullptr, 0, own.gradients.data(), own.scales.data()},
                     pieces[i].part);
    });
    size_t num_updated = 0;
    for (const TableSources& own : sources) num_updated += own.table->update_step().finish();
    return num_updated;
}

}  // namespace monolith
