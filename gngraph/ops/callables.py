"""Names that a foreign op in a file may call: what computes tensors from tensors and numbers, and nothing else.

A name that is not here is refused, whatever a newer torch brings. Left out on purpose: what reaches a tensor's storage or
resizes it (`untyped_storage`, `resize_`, `set_`, `as_strided_`), sparse and quantised tensors, whose parts can be overwritten
(`to_sparse`, `indices`, `values`), other devices and pinned memory, hooks, files, and single backends' kernels, which check
little.
"""

from __future__ import annotations

_FUNCTIONS = """
_grouped_mm _weight_norm
_assert abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool1d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d
adaptive_max_pool3d_with_indices add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid affine_grid_generator
all allclose alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh
argmax argmin argsort argwhere asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d
avg_pool3d baddbmm batch_norm bernoulli bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount
binomial bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm
broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist ceil celu chain_matmul channel_shuffle
cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min clip clone column_stack combinations complex concat
concatenate conj conj_physical constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
copysign corrcoef cos cosh cosine_embedding_loss cosine_similarity count_nonzero cov cross cross_entropy ctc_loss
cummax cummin cumprod cumsum cumulative_trapezoid deg2rad det detach diag diag_embed diagflat diagonal
diagonal_scatter diff digamma dist div divide dot dropout dropout1d dropout2d dropout3d dsplit dstack einsum elu
embedding embedding_bag empty empty_like eq equal erf erfc erfinv exp exp2 expm1 eye fake_quantize_per_channel_affine
fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn
fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn
fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fix flatten flip fliplr flipud float_power
floor floor_divide fmax fmin fmod fold frac fractional_max_pool2d fractional_max_pool3d frexp full full_like gather
gaussian_nll_loss gcd ge gelu ger glu gradient greater greater_equal grid_sample grid_sampler grid_sampler_2d
grid_sampler_3d group_norm gru gru_cell gt gumbel_softmax hamming_window hann_window hardshrink hardtanh heaviside
hinge_embedding_loss histc histogram hsplit hstack huber_loss hypot i0 igamma igammac imag index_add index_copy
index_fill index_put index_reduce index_select inner instance_norm interpolate inverse is_complex is_conj
is_floating_point is_neg is_nonzero is_signed isclose isfinite isin isinf isnan isneginf isposinf isreal istft kl_div
kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu lerp less less_equal lgamma linalg_cholesky
linalg_cholesky_ex linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eig linalg_eigh linalg_eigvals
linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex
linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matmul
linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_matrix_rank linalg_matrix_sqrth linalg_multi_dot
linalg_norm linalg_pinv linalg_polar linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular
linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear
linspace local_response_norm log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet
logical_and logical_not logical_or logical_xor logit logspace logsumexp lp_pool1d lp_pool2d lp_pool3d lstm lstm_cell
lt lu lu_solve lu_unpack margin_ranking_loss masked_fill masked_scatter masked_select matmul matrix_exp matrix_power
max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
max_unpool1d max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis movedim mse_loss
msort mul multi_head_attention_forward multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss
multinomial multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow ne neg negative nextafter
nll_loss nonzero nonzero_static norm normal normalize not_equal numel one_hot ones ones_like outer pad
pairwise_distance pca_lowrank pdist permute pinverse pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar
polygamma positive pow prelu prod quantile rad2deg rand rand_like randint randint_like randn randn_like randperm ravel
real reciprocal relu relu6 remainder renorm repeat_interleave reshape resolve_conj rms_norm rnn_relu rnn_relu_cell
rnn_tanh rnn_tanh_cell roll rot90 round row_stack rrelu rsqrt rsub scaled_dot_product_attention scatter scatter_add
scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice_scatter
slogdet smooth_l1_loss soft_margin_loss softmax softmin softplus softshrink softsign sort special_airy_ai
special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t
special_chebyshev_polynomial_u special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv
special_exp2 special_expit special_expm1 special_gammainc special_gammaincc special_gammaln
special_hermite_polynomial_h special_hermite_polynomial_he special_i0 special_i0e special_i1 special_i1e
special_laguerre_polynomial_l special_legendre_polynomial_p special_log1p special_log_ndtr special_log_softmax
special_logit special_logsumexp special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0
special_modified_bessel_k1 special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round
special_sinc special_softmax special_spherical_bessel_j0 special_xlog1py special_xlogy special_zeta split
split_with_sizes sqrt square squeeze stack std std_mean stft sub subtract sum svd svd_lowrank swapaxes swapdims t take
take_along_dim tan tanh tanhshrink tensor tensor_split tensordot threshold tile topk trace transpose trapezoid trapz
triangular_solve tril tril_indices triplet_margin_loss triplet_margin_with_distance_loss triu triu_indices true_divide
trunc unbind unflatten unfold unique unique_consecutive unravel_index unsqueeze vander var var_mean vdot
view_as_complex view_as_real vsplit vstack where xlogy zeros zeros_like
"""

_METHODS = """
abs abs_ absolute absolute_ acos acos_ acosh acosh_ add add_ addbmm addbmm_ addcdiv addcdiv_ addcmul addcmul_ addmm
addmm_ addmv addmv_ addr addr_ adjoint all allclose amax amin aminmax angle any arccos arccos_ arccosh arccosh_ arcsin
arcsin_ arcsinh arcsinh_ arctan arctan2 arctan2_ arctan_ arctanh arctanh_ argmax argmin argsort argwhere as_strided asin
asin_ asinh asinh_ atan atan2 atan2_ atan_ atanh atanh_ baddbmm baddbmm_ bernoulli bernoulli_ bfloat16 bincount
bitwise_and bitwise_and_ bitwise_left_shift bitwise_left_shift_ bitwise_not bitwise_not_ bitwise_or bitwise_or_
bitwise_right_shift bitwise_right_shift_ bitwise_xor bitwise_xor_ bmm bool broadcast_to byte cauchy_ cdouble ceil ceil_
cfloat chalf char cholesky_inverse cholesky_solve chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip
clip_ clone conj conj_physical conj_physical_ contiguous copy_ copysign copysign_ corrcoef cos cos_ cosh cosh_
count_nonzero cov cpu cross cummax cummin cumprod cumprod_ cumsum cumsum_ deg2rad deg2rad_ det detach detach_ diag
diag_embed diagflat diagonal diagonal_scatter diff digamma digamma_ dim dist div div_ divide divide_ dot double dsplit
eq eq_ equal erf erf_ erfc erfc_ erfinv erfinv_ exp exp2 exp2_ exp_ expand expand_as expm1 expm1_ exponential_ fill_
fill_diagonal_ fix fix_ flatten flip fliplr flipud float float_power float_power_ floor floor_ floor_divide
floor_divide_ fmax fmin fmod fmod_ frac frac_ frexp gather gcd gcd_ ge ge_ geometric_ greater greater_ greater_equal
greater_equal_ gt gt_ half hardshrink heaviside heaviside_ histc histogram hsplit hypot hypot_ i0 i0_ igamma igamma_
igammac igammac_ index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_reduce
index_reduce_ index_select inner int inverse is_complex is_conj is_contiguous is_floating_point is_neg is_nonzero
is_signed isclose isfinite isinf isnan isneginf isposinf isreal istft item kron kthvalue lcm lcm_ ldexp ldexp_ le le_
lerp lerp_ less less_ less_equal less_equal_ lgamma lgamma_ log log10 log10_ log1p log1p_ log2 log2_ log_ log_normal_
log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_and_ logical_not logical_not_ logical_or
logical_or_ logical_xor logical_xor_ logit logit_ logsumexp long lt lt_ lu lu_solve masked_fill masked_fill_
masked_scatter masked_scatter_ masked_select matmul matrix_exp matrix_power max maximum mean median min minimum mm mode
moveaxis movedim msort mul mul_ multinomial multiply multiply_ mv mvlgamma mvlgamma_ nan_to_num nan_to_num_ nanmean
nanmedian nanquantile nansum narrow ndimension ne ne_ neg neg_ negative negative_ nelement new_empty new_full new_ones
new_zeros nextafter nextafter_ nonzero nonzero_static norm normal_ not_equal not_equal_ numel outer permute pinverse
polygamma polygamma_ positive pow pow_ prelu prod quantile rad2deg rad2deg_ random_ ravel reciprocal reciprocal_ relu
relu_ remainder remainder_ renorm renorm_ repeat repeat_interleave reshape reshape_as resolve_conj roll rot90 round
round_ rsqrt rsqrt_ scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ select select_scatter sgn
sgn_ short sigmoid sigmoid_ sign sign_ signbit sin sin_ sinc sinc_ sinh sinh_ size slice_scatter slogdet softmax sort
split split_with_sizes sqrt sqrt_ square square_ squeeze squeeze_ std stft stride sub sub_ subtract subtract_ sum
sum_to_size svd swapaxes swapaxes_ swapdims swapdims_ t t_ take take_along_dim tan tan_ tanh tanh_ tensor_split tile to
tolist topk trace transpose transpose_ triangular_solve tril tril_ triu triu_ true_divide true_divide_ trunc trunc_ type
type_as unbind unflatten unfold uniform_ unique unique_consecutive unsqueeze unsqueeze_ var vdot view view_as vsplit
where xlogy xlogy_ zero_
"""

_VISION = """
nms batched_nms box_area box_convert box_iou clip_boxes_to_image complete_box_iou deform_conv2d distance_box_iou
drop_block2d drop_block3d generalized_box_iou masks_to_boxes ps_roi_align ps_roi_pool remove_small_boxes roi_align
roi_pool sigmoid_focal_loss stochastic_depth
"""

TENSOR_FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Functions of torch, torch.functional, torch.nn.functional, torch.linalg, torch.fft and torch.special, by their last name."""

TENSOR_METHODS = frozenset(_METHODS.split())
"""Methods of torch.Tensor."""

VISION_FUNCTIONS = frozenset(_VISION.split())
"""Functions of torchvision.ops, by their last name."""
