//! A slowly averaged copy of a network: momentum encoder, target network, teacher.

use selfsame_autograd::ema::ema_update_pairs;
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::Result;
use selfsame_models::{Ctx, Init, Module, copy_values, params};

/// The average of an online network's parameters over the steps. Its own are buffers: no gradient, no optimiser. Its
/// batch norms have running statistics of their own, which are not averaged.
pub struct Teacher<M> {
    network: M,
    /// Each averaged parameter with the online one.
    pairs: Vec<(Param, Param)>,
}

impl<M: Module> Teacher<M> {
    /// A twin of `online` with its values, below the path `teacher`. `build` is what made `online` from `init`.
    ///
    /// # Errors
    /// Those of `build`; `Config` when what it builds is no twin.
    pub fn of(online: &M, init: &Init, build: impl FnOnce(&Init) -> Result<M>) -> Result<Teacher<M>> {
        let network = build(&init.at("teacher").frozen())?;
        copy_values(online, &network)?;
        let twins = params(&network).into_iter().zip(params(online));
        Ok(Teacher { pairs: twins.filter(|(_, online)| online.role() != Role::Buffer).collect(), network })
    }

    /// The network.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// θ' ← momentum · θ' + (1 - momentum) · θ for every parameter.
    ///
    /// # Errors
    /// `Config` unless `momentum` is in `0..=1`.
    pub fn follow(&self, momentum: f64) -> Result<()> {
        let pairs: Vec<(&Param, &Param)> = self.pairs.iter().map(|(own, online)| (own, online)).collect();
        ema_update_pairs(&pairs, momentum)
    }
}

impl<M: Module> Module for Teacher<M> {
    /// The network's output, without a graph whatever `cx` says.
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.network.forward(x, &cx.clone().no_grad())
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.network.visit(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, Device};
    use selfsame_models::heads::{Mlp, MlpOpts};

    #[test]
    fn a_teacher_starts_as_its_student_and_follows_it() {
        let init = Init::new(&Device::cpu_with(1).unwrap(), 3);
        let build = |init: &Init| Mlp::new(init, &[3, 4, 2], MlpOpts::SIMCLR);
        let online = build(&init).unwrap();
        let teacher = Teacher::of(&online, &init, build).unwrap();
        let values = |module: &dyn Module| -> Vec<Vec<f32>> {
            params(module).iter().map(|param| param.array().to_vec().unwrap()).collect()
        };
        let first = values(&online);
        assert_eq!(values(&teacher), first);
        assert!(params(&teacher).iter().all(|param| param.role() == Role::Buffer));
        assert!(params(&teacher).iter().all(|param| param.path().starts_with("teacher.")));
        for param in params(&online) {
            param.set(Array::full(2f32, param.array().shape(), param.array().device()).unwrap()).unwrap();
        }
        teacher.follow(1.0).unwrap();
        assert_eq!(values(&teacher), first);
        teacher.follow(0.75).unwrap();
        for ((param, now), before) in params(&online).iter().zip(values(&teacher)).zip(&first) {
            let averaged = param.role() != Role::Buffer;
            let expected = |x: &f32| if averaged { 0.75f32.mul_add(*x, 0.25 * 2.0) } else { *x };
            assert_eq!(now, before.iter().map(expected).collect::<Vec<_>>(), "{}", param.path());
        }
        teacher.follow(0.0).unwrap();
        let x = Tensor::constant(Array::full(1f32, &[2, 3], init.device()).unwrap());
        assert!(!teacher.forward(&x, &Ctx::train()).unwrap().is_tracked());
        assert!(teacher.follow(1.5).is_err());
    }
}
