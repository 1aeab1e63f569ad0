// y = x W^T (+ bias) for a few rows of x, as steps of decoding have them. Such a product is bound by the reading of W, once, in order.
//
// W is row-major: float32 or bfloat16 [n, k], int8 codes [n, k] with a float32 scale a row, or int4 codes with a bfloat16 scale for each 32
// of a row (uint8 [n, k/2], low half first, value code - 8). Sums are in float32. With codes x enters in 16 bits where the processor
// multiplies whole numbers (AVX-512 VNNI): an error of at most 2^-15.9 of the largest of 128 neighbours. Many rows go to torch's product
// of matrices.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#if defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(VLMGRAPH_PORTABLE)
#include <immintrin.h>
#ifdef __AVX512BF16__
#define PAIRS
#endif
#ifdef __AVX512VNNI__
#define WHOLE
#endif
#endif

namespace {

using at::Tensor;
using Bias = std::optional<Tensor>;

constexpr int64_t FEW = 8;         // rows that are not yet a product of matrices
constexpr int64_t STEP = 128;      // x is padded with zeros to a multiple, and scaled by as many
constexpr int64_t GROUP = 32;      // int4 weights that share a scale
constexpr int64_t BLOCK = 1 << 22; // weights that are turned into numbers at once, for many rows
constexpr int AHEAD = 2048;        // bytes
constexpr int TOGETHER = 2;        // rows of W that one row of x is read for, where reading it would take as long as W

float widen(uint16_t b) {
  uint32_t u = uint32_t(b) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

uint16_t narrow(float f) { // to the nearest bfloat16, of two the even one
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return (u & 0x7fffffff) > 0x7f800000 ? uint16_t((u >> 16) | 64) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// Rows of x in float32, each padded with zeros to whole steps.
struct Rows {
  int64_t count, k, steps;
  std::vector<float> x;
  Rows(const Tensor& from, int64_t count, int64_t k) : count(count), k(k), steps((k + STEP - 1) / STEP), x(count * steps * STEP) {
    for (int64_t r = 0; r < count; r++) {
      float* to = x.data() + r * steps * STEP;
      switch (from.scalar_type()) {
        case at::kFloat: std::copy_n(from.const_data_ptr<float>() + r * k, k, to); break;
        case at::kBFloat16: {
          const uint16_t* own = static_cast<const uint16_t*>(from.const_data_ptr()) + r * k;
          for (int64_t i = 0; i < k; i++) to[i] = widen(own[i]);
          break;
        }
        case at::kHalf: std::copy_n(from.const_data_ptr<at::Half>() + r * k, k, to); break;
        default: std::copy_n(from.const_data_ptr<double>() + r * k, k, to);
      }
    }
  }
  const float* row(int64_t r) const { return x.data() + r * steps * STEP; }
};

void ahead(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + AHEAD); }

// ---- bfloat16

#ifdef PAIRS

__m512bh load(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }

struct BFloat16 { // pairs of products at once
  struct In {
    std::vector<uint16_t> x;
    int64_t stride;
    explicit In(const Rows& rows) : x(rows.x.size()), stride(rows.steps * STEP) {
      for (size_t i = 0; i < x.size(); i++) x[i] = narrow(rows.x[i]);
    }
  };
  const uint16_t* w;
  int64_t k;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    constexpr int A = M > 2 ? 1 : 2;
    const uint16_t *p = w + row * k, *x = in.x.data() + first * in.stride;
    __m512 sum[M][A];
    for (auto& own : sum)
      for (auto& s : own) s = _mm512_setzero_ps();
    int64_t j = 0;
    for (; j + 32 * A <= k; j += 32 * A)
      for (int a = 0; a < A; a++) {
        ahead(p + j + 32 * a);
        __m512bh v = load(p + j + 32 * a);
        for (int m = 0; m < M; m++) sum[m][a] = _mm512_dpbf16_ps(sum[m][a], v, load(x + m * in.stride + j + 32 * a));
      }
    for (; j < k; j += 32) {
      __mmask32 mask = k - j >= 32 ? ~0u : (1u << (k - j)) - 1;
      __m512bh v = (__m512bh)_mm512_maskz_loadu_epi16(mask, p + j);
      for (int m = 0; m < M; m++) sum[m][0] = _mm512_dpbf16_ps(sum[m][0], v, load(x + m * in.stride + j));
    }
    for (int m = 0; m < M; m++) y[m] = _mm512_reduce_add_ps(A == 1 ? sum[m][0] : _mm512_add_ps(sum[m][0], sum[m][A - 1]));
  }
};

#else

struct BFloat16 {
  using In = Rows;
  const uint16_t* w;
  int64_t k;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    for (int m = 0; m < M; m++) {
      const uint16_t* p = w + row * k;
      const float* x = in.row(first + m);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < k; j++) sum += widen(p[j]) * x[j];
      y[m] = sum;
    }
  }
};

#endif

// ---- codes

#ifdef WHOLE

// Rows of x as whole numbers of 16 bits with a scale each step. No number is so large that its high byte, rounded, would not be one.
struct Fixed {
  static constexpr float MOST = 127 * 256;
  int64_t steps;
  std::vector<int16_t> x;
  std::vector<float> scale;
  explicit Fixed(const Rows& rows) : steps(rows.steps), x(rows.x.size()), scale(rows.count * rows.steps) {
    for (size_t s = 0; s < scale.size(); s++) {
      const float* from = rows.x.data() + s * STEP;
      float top = 0, sum = 0;
#pragma omp simd reduction(max : top) reduction(+ : sum)
      for (int i = 0; i < STEP; i++) {
        top = std::max(top, std::fabs(from[i]));
        sum += from[i] - from[i]; // not 0 where one is no finite number
      }
      if (sum != 0) {
        scale[s] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      scale[s] = top / MOST;
      float inverse = scale[s] > 0 ? MOST / top : 0;
      if (!(inverse <= std::numeric_limits<float>::max())) inverse = 0;
      for (int i = 0; i < STEP; i++) x[s * STEP + i] = int16_t((from[i] * inverse + 12582912.f) - 12582912.f); // 1.5 * 2^23 rounds
    }
  }
};

struct Int8 { // codes widened to 16 bits
  using In = Fixed;
  const int8_t* w;
  const float* scale;
  int64_t k;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    const int8_t* p = w + row * k;
    const int16_t* x = in.x.data() + first * in.steps * STEP;
    __m512 sum[M];
    for (auto& s : sum) s = _mm512_setzero_ps();
    const int64_t stride = in.steps * STEP;
    const float* each = in.scale.data() + first * in.steps;
    auto add = [&](int64_t step, auto codes) {
      __m512i d[M];
      for (auto& s : d) s = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int part = 0; part < 4; part++) {
        __m512i v = _mm512_cvtepi8_epi16(codes(step * STEP + 32 * part));
        for (int m = 0; m < M; m++) d[m] = _mm512_dpwssd_epi32(d[m], v, _mm512_loadu_si512(x + m * stride + step * STEP + 32 * part));
      }
      for (int m = 0; m < M; m++) sum[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d[m]), _mm512_set1_ps(each[m * in.steps + step]), sum[m]);
    };
    const int64_t whole = k / STEP;
    for (int64_t step = 0; step < whole; step++) {
      ahead(p + step * STEP);
      ahead(p + step * STEP + 64);
      add(step, [&](int64_t j) { return _mm256_loadu_si256((const __m256i*)(p + j)); });
    }
    if (whole < in.steps)
      add(whole, [&](int64_t j) {
        int64_t left = std::clamp<int64_t>(k - j, 0, 32);
        return _mm256_maskz_loadu_epi8(uint32_t((1ull << left) - 1), p + j);
      });
    for (int m = 0; m < M; m++) y[m] = scale[row] * _mm512_reduce_add_ps(sum[m]);
  }
};

struct Int4 { // codes as bytes, x as two: 256 high + low
  struct In {
    int64_t steps;
    std::vector<int8_t> x;      // of a step the high bytes in even and in odd places, then the low ones
    std::vector<int32_t> start; // of a step -8 x, summed over each eight that stand together
    std::vector<float> scale;
    explicit In(const Rows& rows) : steps(rows.steps), x(rows.x.size() * 2), start(rows.x.size() / 8) {
      Fixed fixed(rows);
      for (size_t s = 0; s < fixed.scale.size(); s++) {
        const int16_t* from = fixed.x.data() + s * STEP;
        int8_t* to = x.data() + s * STEP * 2;
        for (int i = 0; i < STEP / 2; i++)
          for (int odd = 0; odd < 2; odd++) {
            int whole = from[2 * i + odd], low = int8_t(whole);
            to[64 * odd + i] = int8_t((whole - low) >> 8);
            to[128 + 64 * odd + i] = int8_t(low);
          }
        for (int i = 0; i < 16; i++) {
          int sum = 0;
          for (int j = 0; j < 8; j++) sum += from[8 * i + j];
          start[s * 16 + i] = -8 * sum;
        }
      }
      scale = std::move(fixed.scale);
    }
  };
  const uint8_t* w;
  const uint16_t* scale;
  int64_t k, groups;
  template <int M, int R = 1> void dot(int64_t row, const In& in, int64_t first, float* y) const { // of R rows of W
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i lanes = _mm512_set_epi16(3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 sum[M][R];
    for (auto& own : sum)
      for (auto& s : own) s = _mm512_setzero_ps();
    const uint8_t* p = w + row * groups * 16;
    const uint16_t* s = scale + row * groups;
    const int8_t* x = in.x.data() + first * in.steps * 256;
    const int32_t* start = in.start.data() + first * in.steps * 16;
    const float* own = in.scale.data() + first * in.steps;
    auto add = [&](int64_t step, auto codes, auto scales) {
      __m512 each[R];
      __m512i even[R], odd[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        each[r] = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, lanes, _mm512_castsi128_si512(scales(r * groups + step * 4))));
        __m512i c = codes((r * groups + step * 4) * 16);
        even[r] = _mm512_and_si512(c, nibble);
        odd[r] = _mm512_and_si512(_mm512_srli_epi16(c, 4), nibble);
      }
      for (int m = 0; m < M; m++) {
        const int64_t at = m * in.steps + step;
        const __m512i a = _mm512_loadu_si512(x + at * 256), b = _mm512_loadu_si512(x + at * 256 + 64);
        const __m512i c = _mm512_loadu_si512(x + at * 256 + 128), d = _mm512_loadu_si512(x + at * 256 + 192);
        const __m512i first = _mm512_loadu_si512(start + at * 16);
        const __m512 share = _mm512_set1_ps(own[at]);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          __m512i high = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), even[r], a), odd[r], b);
          __m512i low = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(first, even[r], c), odd[r], d);
          __m512 both = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
          sum[m][r] = _mm512_fmadd_ps(both, _mm512_mul_ps(each[r], share), sum[m][r]);
        }
      }
    };
    const int64_t whole = groups / 4, left = groups % 4;
    for (int64_t step = 0; step < whole; step++) {
      for (int r = 0; r < R; r++) ahead(p + (r * groups + step * 4) * 16);
      add(step, [&](int64_t i) { return _mm512_loadu_si512(p + i); }, [&](int64_t i) { return _mm_loadl_epi64((const __m128i*)(s + i)); });
    }
    if (left)
      add(whole, [&](int64_t i) { return _mm512_maskz_loadu_epi8((1ull << 16 * left) - 1, p + i); },
          [&](int64_t i) { return _mm_maskz_loadu_epi16((1u << left) - 1, s + i); });
    for (int m = 0; m < M; m++)
      for (int r = 0; r < R; r++) y[m * R + r] = _mm512_reduce_add_ps(sum[m][r]);
  }
};

#else

struct Int8 {
  using In = Rows;
  const int8_t* w;
  const float* scale;
  int64_t k;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    for (int m = 0; m < M; m++) {
      const int8_t* p = w + row * k;
      const float* x = in.row(first + m);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < k; j++) sum += float(p[j]) * x[j];
      y[m] = scale[row] * sum;
    }
  }
};

struct Int4 {
  struct In { // of a group the even ones, then the odd ones
    int64_t stride;
    std::vector<float> x;
    explicit In(const Rows& rows) : stride(rows.steps * STEP), x(rows.x.size()) {
      for (size_t i = 0; i < x.size(); i++) x[i / 32 * 32 + i % 2 * 16 + i % 32 / 2] = rows.x[i];
    }
  };
  const uint8_t* w;
  const uint16_t* scale;
  int64_t k, groups;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    for (int m = 0; m < M; m++) {
      y[m] = 0;
      for (int64_t g = 0; g < groups; g++) {
        const uint8_t* p = w + (row * groups + g) * 16;
        const float* x = in.x.data() + (first + m) * in.stride + 32 * g;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < 16; j++) sum += float(int(p[j] & 15) - 8) * x[j] + float(int(p[j] >> 4) - 8) * x[j + 16];
        y[m] += widen(scale[row * groups + g]) * sum;
      }
    }
  }
};

#endif

// ---- float32

struct Float {
  using In = Rows;
  const float* w;
  int64_t k;
  template <int M> void dot(int64_t row, const In& in, int64_t first, float* y) const {
    constexpr int A = M > 2 ? 2 : 4, V = 16;
    typedef float Vector __attribute__((vector_size(4 * V), aligned(4), may_alias));
    const float *p = w + row * k, *x = in.row(first);
    const int64_t stride = in.steps * STEP;
    Vector sum[M][A] = {};
    int64_t j = 0;
    for (; j + V * A <= k; j += V * A)
      for (int a = 0; a < A; a++) {
        ahead(p + j + V * a);
        Vector v = *reinterpret_cast<const Vector*>(p + j + V * a);
        for (int m = 0; m < M; m++) sum[m][a] += v * *reinterpret_cast<const Vector*>(x + m * stride + j + V * a);
      }
    for (int m = 0; m < M; m++) {
      float rest = 0;
      for (int64_t i = j; i < k; i++) rest += p[i] * x[m * stride + i];
      for (int a = 1; a < A; a++) sum[m][0] += sum[m][a];
      for (int l = 0; l < V; l++) rest += sum[m][0][l];
      y[m] = rest;
    }
  }
};

// ---- x in, y out

void put(const Tensor& t, int64_t begin, int64_t end, const float* from) { // numbers begin to end of t
  switch (t.scalar_type()) {
    case at::kFloat: break; // it is where they were made
    case at::kBFloat16: {
      uint16_t* to = static_cast<uint16_t*>(t.data_ptr());
      for (int64_t i = begin; i < end; i++) to[i] = narrow(from[i]);
      break;
    }
    case at::kHalf: std::copy(from + begin, from + end, t.data_ptr<at::Half>() + begin); break;
    default: std::copy(from + begin, from + end, t.data_ptr<double>() + begin);
  }
}

template <class W> void few(const W& w, const Tensor& x, int64_t rows, int64_t n, int64_t k, const Bias& bias, const Tensor& y) {
  const typename W::In in(Rows(x, rows, k));
  const Tensor made = y.scalar_type() == at::kFloat ? y : at::empty(y.sizes(), y.options().dtype(at::kFloat));
  const Tensor added = bias ? bias->to(at::kFloat).contiguous() : Tensor();
  const float* b = bias ? added.const_data_ptr<float>() : nullptr;
  float* to = made.data_ptr<float>();
  at::parallel_for(0, n, std::max<int64_t>(1, (1 << 15) / k), [&](int64_t begin, int64_t end) {
    float sums[FEW];
    int64_t row = begin;
    if constexpr (requires { w.template dot<1, TOGETHER>(row, in, 0, sums); })
      for (; rows == 1 && row + TOGETHER <= end; row += TOGETHER) w.template dot<1, TOGETHER>(row, in, 0, to + row);
    for (; row < end; row++) {
      int64_t m = 0;
      for (; m + 4 <= rows; m += 4) w.template dot<4>(row, in, m, sums + m);
      for (; m + 2 <= rows; m += 2) w.template dot<2>(row, in, m, sums + m);
      for (; m < rows; m++) w.template dot<1>(row, in, m, sums + m);
      for (int64_t r = 0; r < rows; r++) to[r * n + row] = sums[r];
    }
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t i = begin; b && i < end; i++) to[r * n + i] += b[i];
      put(y, r * n + begin, r * n + end, to);
    }
  });
}

Tensor shaped(const Tensor& x, int64_t n) {
  auto sizes = x.sizes().vec();
  sizes.back() = n;
  return at::empty(sizes, x.options());
}

bool known(at::ScalarType t) { return t == at::kFloat || t == at::kBFloat16 || t == at::kHalf || t == at::kDouble; }

Tensor linear(const Tensor& x, const Tensor& weight, const Bias& bias) {
  int64_t k = x.size(-1), n = weight.size(0), rows = k ? x.numel() / k : 0;
  auto kind = weight.scalar_type();
  bool ours = (kind == at::kFloat || kind == at::kBFloat16) && x.scalar_type() == kind && weight.is_contiguous() && weight.size(1) == k;
  if (!ours || rows < 1 || rows > FEW || (bias && !known(bias->scalar_type()))) return at::linear(x, weight, bias);
  Tensor in = x.contiguous(), y = shaped(x, n);
  if (kind == at::kFloat)
    few(Float{weight.const_data_ptr<float>(), k}, in, rows, n, k, bias, y);
  else
    few(BFloat16{static_cast<const uint16_t*>(weight.const_data_ptr()), k}, in, rows, n, k, bias, y);
  return y;
}

// Weights as numbers a block of rows at a time, and torch's product with each.
template <class F> Tensor many(const Tensor& x, int64_t n, int64_t k, const Bias& bias, F numbers) {
  auto kind = x.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  Tensor in = x.to(kind), y = shaped(x, n);
  int64_t block = std::min(n, std::max<int64_t>(1, BLOCK / k));
  Tensor weight = at::empty({block, k}, in.options());
  for (int64_t at = 0; at < n; at += block) {
    int64_t count = std::min(block, n - at);
    at::parallel_for(0, count, std::max<int64_t>(1, (1 << 15) / k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        if (kind == at::kBFloat16)
          numbers(at + r, static_cast<uint16_t*>(weight.data_ptr()) + r * k);
        else
          numbers(at + r, weight.data_ptr<float>() + r * k);
      }
    });
    Bias own = bias ? Bias(bias->narrow(0, at, count).to(kind)) : bias;
    y.narrow(-1, at, count).copy_(at::linear(in, weight.narrow(0, 0, count), own));
  }
  return y;
}

void keep(float f, float* to) { *to = f; }
void keep(float f, uint16_t* to) { *to = narrow(f); }

Tensor linear_int8(const Tensor& x, const Tensor& codes, const Tensor& scale, const Bias& bias) {
  int64_t k = x.size(-1), n = codes.size(0), rows = k ? x.numel() / k : 0;
  TORCH_CHECK(codes.scalar_type() == at::kChar && codes.is_contiguous() && codes.dim() == 2 && codes.size(1) == k, "codes are int8 [n, k]");
  TORCH_CHECK(scale.scalar_type() == at::kFloat && scale.is_contiguous() && scale.numel() == n, "scales are float32 [n]");
  TORCH_CHECK(known(x.scalar_type()), "x is of a floating type");
  const int8_t* w = codes.const_data_ptr<int8_t>();
  const float* s = scale.const_data_ptr<float>();
  if (rows >= 1 && rows <= FEW) {
    Tensor y = shaped(x, n);
    few(Int8{w, s, k}, x.contiguous(), rows, n, k, bias, y);
    return y;
  }
  return many(x, n, k, bias, [=](int64_t row, auto* to) {
    for (int64_t j = 0; j < k; j++) keep(float(w[row * k + j]) * s[row], to + j);
  });
}

Tensor linear_int4(const Tensor& x, const Tensor& codes, const Tensor& scale, const Bias& bias) {
  int64_t k = x.size(-1), n = codes.size(0), rows = k ? x.numel() / k : 0, groups = (k + GROUP - 1) / GROUP;
  TORCH_CHECK(codes.scalar_type() == at::kByte && codes.is_contiguous() && codes.dim() == 2 && codes.size(1) == groups * 16,
              "codes are uint8 [n, 16 for each 32 of k]");
  TORCH_CHECK(scale.scalar_type() == at::kBFloat16 && scale.is_contiguous() && scale.numel() == n * groups,
              "scales are bfloat16 [n, k / 32]");
  TORCH_CHECK(known(x.scalar_type()), "x is of a floating type");
  const uint8_t* w = codes.const_data_ptr<uint8_t>();
  const uint16_t* s = static_cast<const uint16_t*>(scale.const_data_ptr());
  if (rows >= 1 && rows <= FEW) {
    Tensor y = shaped(x, n);
    few(Int4{w, s, k, groups}, x.contiguous(), rows, n, k, bias, y);
    return y;
  }
  return many(x, n, k, bias, [=](int64_t row, auto* to) {
    for (int64_t g = 0; g < groups; g++) {
      const uint8_t* p = w + (row * groups + g) * GROUP / 2;
      const float own = widen(s[row * groups + g]);
      float made[GROUP];
      for (int j = 0; j < GROUP / 2; j++) {
        made[2 * j] = float(int(p[j] & 15) - 8) * own;
        made[2 * j + 1] = float(int(p[j] >> 4) - 8) * own;
      }
      for (int64_t j = 0; j < std::min<int64_t>(GROUP, k - g * GROUP); j++) keep(made[j], to + g * GROUP + j);
    }
  });
}

} // namespace

TORCH_LIBRARY_IMPL(vlmgraph, CPU, m) {
  m.impl("linear", linear);
  m.impl("linear_int8", linear_int8);
  m.impl("linear_int4", linear_int4);
}
