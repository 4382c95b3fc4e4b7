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

// Positions of a batch in one table, and the gradients of their rows.
struct TableUpdate {
    EmbeddingTable* table;
    const uint32_t* rows;
    size_t n;
    Gradients gradients;
};

inline bool has_single_fids(const Batch& batch, size_t f) {
    const int64_t* bags = batch.offsets + f * batch.num_bags;
    if (batch.size(f) != batch.num_bags) return false;
    for (size_t b = 0; b < batch.num_bags; ++b)
        if (bags[b + 1] - bags[b] != 1) return false;
    return true;
}

// Of a table with one feature, whose bags are summed or averaged without weights: the source of a position is its bag.
inline TableUpdate update_by_bags(const Batch& batch, size_t f, const uint32_t* rows, const float* gradients) {
    EmbeddingTable* const table = batch.features[f].table;
    const size_t n = batch.size(f);
    TableUpdate update{table, rows + batch.begin(f), n, {gradients, batch.width}};
    if (has_single_fids(batch, f)) return update;
    using Sources = UpdateStep::Sources;
    Sources& sources = table->update_step().sources();
    uint32_t* out = Sources::room(sources.bags, n);
    update.gradients.sources = out;
    const bool is_mean = batch.features[f].pooling == Pooling::kMean;
    float* const shares = is_mean ? Sources::room(sources.scales, batch.num_bags) : nullptr;
    update.gradients.scales = shares;
    const int64_t* bags = batch.offsets + f * batch.num_bags;
    for (size_t b = 0; b < batch.num_bags; ++b) {
        const auto size = static_cast<size_t>(bags[b + 1] - bags[b]);
        for (size_t k = 0; k < size; ++k) out[k] = static_cast<uint32_t>(b);
        out += size;
        if (is_mean) shares[b] = size > 1 ? 1.0f / static_cast<float>(size) : 1.0f;
    }
    return update;
}

// Of any table: a list of the positions that learn, with address and scale of their gradients.
inline TableUpdate update_by_addresses(const Batch& batch, const std::vector<size_t>& features, const uint32_t* rows,
                                       const float* gradients, const std::vector<size_t>& columns) {
    EmbeddingTable* const table = batch.features[features.front()].table;
    using Sources = UpdateStep::Sources;
    Sources& sources = table->update_step().sources();
    size_t most = 0, n = 0;
    for (const size_t f : features) most += batch.size(f);
    uint32_t* const own = Sources::room(sources.rows, most);
    const float** const addresses = Sources::room(sources.addresses, most);
    float* const scales = Sources::room(sources.scales, most);
    for (const size_t f : features) {
        const Feature& feature = batch.features[f];
        const int64_t* bags = batch.offsets + f * batch.num_bags;
        const bool is_first = feature.pooling == Pooling::kFirst;
        for (size_t b = 0; b < batch.num_bags; ++b) {
            const int64_t size = bags[b + 1] - bags[b],
                          end = is_first ? std::min(bags[b + 1], bags[b] + int64_t{feature.first}) : bags[b + 1];
            const float share = feature.pooling == Pooling::kMean && size > 1 ? 1.0f / static_cast<float>(size) : 1.0f;
            const float* gradient = gradients + b * batch.width + columns[f];
            for (int64_t i = bags[b]; i < end; ++i, ++n) {
                own[n] = rows[i];
                addresses[n] = gradient;
                scales[n] = batch.scales ? share * batch.scales[i] : share;
                if (is_first) gradient += feature.table->dim();
            }
        }
    }
    return {table, own, n, {nullptr, 0, addresses, scales}};
}

inline TableUpdate update_of(const Batch& batch, const std::vector<size_t>& features, const uint32_t* rows,
                             const float* gradients, const std::vector<size_t>& columns) {
    const size_t f = features.front();
    if (features.size() > 1 || batch.scales || batch.features[f].pooling == Pooling::kFirst)
        return update_by_addresses(batch, features, rows, gradients, columns);
    return update_by_bags(batch, f, rows, gradients + columns[f]);
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
    std::vector<TableUpdate> updates(tables.size());
    pool.run(tables.size(),
             [&](size_t t) { updates[t] = update_of(batch, tables[t].second, rows, gradients, columns); });
    std::vector<Piece> pieces;
    for (size_t t = 0; t < tables.size(); ++t) {
        const size_t size = updates[t].n, parts = UpdateStep::parts(size);
        updates[t].table->update_step().begin(parts, size);
        for (size_t p = 0; p < parts; ++p) pieces.push_back({t, p, parts, size});
    }
    largest_first(pieces);
    pool.run(pieces.size(), [&](size_t i) {
        const TableUpdate& own = updates[pieces[i].feature];
        own.table->update_step().run(own.rows, own.n, own.gradients, pieces[i].part);
    });
    size_t num_updated = 0;
    for (const TableUpdate& own : updates) num_updated += own.table->update_step().finish();
    return num_updated;
}

}  // namespace monolith
