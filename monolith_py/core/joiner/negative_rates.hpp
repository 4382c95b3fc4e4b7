// Share of the negatives kept, by the value of a feature: the rule of streaming/joiner/negative_rates.py.
// Letters: B candidates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "joiner/impression.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

// Rates by (feature, fid), and the rate of all other candidates.
class NegativeRates {
  public:
    explicit NegativeRates(double rate = 1.0) : default_(rate) {}
    // Add a rate; one that was added before goes first.
    void add(std::string_view feature, int64_t fid, double rate);
    bool is_one() const { return features_.empty(); }
    double default_rate() const { return default_; }
    // Write the rate of each candidate of an impression into `rates`, (B,).
    void of(const Impression& impression, std::vector<double>& rates) const;

  private:
    struct Rate {
        size_t order;
        double rate;
    };
    struct Feature {
        std::string name;
        std::unordered_map<int64_t, Rate> by_fid;

        std::vector<Rate> of(const Column& column, size_t num_rows) const;
    };
    const Feature* find(std::string_view name) const;

    double default_;
    size_t num_added_ = 0;
    std::vector<Feature> features_;
};

// Rates of the candidates of the request that was asked for last.
class CandidateRates {
  public:
    explicit CandidateRates(const NegativeRates& rates) : rates_(rates) {}
    // Return the rate of candidate `row` of a request with its impression.
    double of(const Request& request, uint32_t row);

  private:
    const NegativeRates& rates_;
    ImpressionBytes impression_;  // kept alive, so that no other one has its address
    std::vector<double> by_row_;  // (B,)
};

}  // namespace monolith::joiner
