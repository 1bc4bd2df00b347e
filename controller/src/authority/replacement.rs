//! Roots that take the place of another: checked, certified by the one before, and tried out.

use super::{AuthorityError, BACKDATE, ROOT_VALIDITY, Subject, issue, key_and_request};
use muster_proto::transport::verify_controller;
use muster_types::{ClusterId, NodeId, NodeRole, RootCa};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::pem::Pem;
use x509_parser::x509::X509Name;

/// Validity of the certificate that a root is tried out with, which nobody keeps.
const TRIAL_VALIDITY: Duration = Duration::from_secs(3600);
/// The label of certificates in PEM (RFC 7468).
const CERTIFICATE: &str = "CERTIFICATE";

const UNREADABLE: AuthorityError = AuthorityError::Given("the certificate cannot be read as PEM");

/// Checks a root certificate and its key that a user gave. What is answered has nothing else that was in the files:
/// the certificate is shown to everybody.
pub fn check_root(given: &RootCa, now: OffsetDateTime) -> Result<RootCa, AuthorityError> {
    let key = KeyPair::from_pem(&given.key_pem)
        .map_err(|_| AuthorityError::Given("the key cannot be read as PEM"))?;
    let der = only_certificate(&given.certificate_pem)?;
    let certificate = parse(&der)?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(AuthorityError::Given("the key is not that of the certificate"));
    }
    check_authority(&certificate, now).map_err(AuthorityError::Given)?;
    check_name(certificate.subject()).map_err(AuthorityError::Given)?;
    Ok(RootCa {
        certificate_pem: certificate_pem(&der),
        key_pem: key.serialize_pem(),
    })
}

/// The one certificate of a PEM text that has nothing else, DER.
fn only_certificate(pem: &str) -> Result<Vec<u8>, AuthorityError> {
    let sections = Pem::iter_from_buffer(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let mut sections = sections.map_err(|_| UNREADABLE)?;
    if sections.iter().any(|section| section.label != CERTIFICATE) {
        return Err(AuthorityError::Given(
            "the certificate's file has something else too; give the key with --ca-key only",
        ));
    }
    match (sections.pop(), sections.is_empty()) {
        (Some(section), true) => Ok(section.contents),
        (Some(_), false) => Err(AuthorityError::Given(
            "the desired CA certificate cannot contain multiple certificates",
        )),
        (None, _) => Err(UNREADABLE),
    }
}

/// The certificate that nodes take from a root that is there. What is beside it came from versions that kept all of a
/// user's file, and goes with that root.
fn first_certificate(pem: &str) -> Result<Vec<u8>, AuthorityError> {
    let mut sections = Pem::iter_from_buffer(pem.as_bytes()).flatten();
    let certificate = sections.find(|section| section.label == CERTIFICATE);
    certificate.map(|section| section.contents).ok_or(UNREADABLE)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, AuthorityError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(UNREADABLE),
    }
}

fn certificate_pem(der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(CERTIFICATE, der), lines)
}

/// Whether it is a root now, and may sign certificates of nodes.
fn check_authority(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Result<(), &'static str> {
    let at = x509_parser::time::ASN1Time::from_timestamp(now.unix_timestamp())
        .map_err(|_| "the clock is wrong")?;
    if !certificate.is_ca() {
        return Err("the certificate is not that of an authority");
    }
    if certificate.subject().as_raw() != certificate.issuer().as_raw() {
        return Err("the certificate is not a root");
    }
    if !certificate.validity().is_valid_at(at) {
        return Err("the certificate is not valid now");
    }
    let twice = |_| "the certificate has an extension twice";
    if certificate.name_constraints().map_err(twice)?.is_some() {
        return Err("the certificate has name constraints, which the names of nodes would break");
    }
    if certificate.extended_key_usage().map_err(twice)?.is_some() {
        return Err("the certificate has an extended key usage, which limits what it may sign");
    }
    let usage = certificate.key_usage().map_err(twice)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("the certificate's key usage does not let it sign certificates");
    }
    Ok(())
}

/// Whether the name can be written again as it is, in what the root signs.
fn check_name(name: &X509Name<'_>) -> Result<(), &'static str> {
    if name.iter_rdn().any(|part| part.iter().count() != 1) {
        return Err("the certificate's subject has several attributes in one part, which is not supported");
    }
    let kinds: Vec<_> = name
        .iter_attributes()
        .map(|attribute| attribute.attr_type())
        .collect();
    let repeated = |(place, kind)| kinds[..place].contains(&kind);
    if kinds.iter().copied().enumerate().any(repeated) {
        return Err("the certificate's subject has an attribute more than once, which is not supported");
    }
    Ok(())
}

/// Certifies a new root's key with the root before, so that nodes that trust that one accept what the new one signs.
/// It is tried out: nodes of both roots believe a certificate of the new one.
pub fn cross_sign(before: &RootCa, new: &RootCa, now: OffsetDateTime) -> Result<String, AuthorityError> {
    let (before_der, new_der) = (
        first_certificate(&before.certificate_pem)?,
        only_certificate(&new.certificate_pem)?,
    );
    let (before_root, new_root) = (parse(&before_der)?, parse(&new_der)?);
    if before_root.public_key().raw == new_root.public_key().raw {
        return Err(AuthorityError::IdenticalKey);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = subject_of(&new_root)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_VALIDITY;
    let key = KeyPair::from_pem(&new.key_pem)?;
    let issuer =
        Issuer::from_ca_cert_der(&before_der.as_slice().into(), KeyPair::from_pem(&before.key_pem)?)?;
    let cross_signed = params.signed_by(&key, &issuer)?.pem();
    try_out((before, &before_root), (new, &new_root), &cross_signed, now)?;
    Ok(cross_signed)
}

/// Refuses a new root unless nodes that trust it, and nodes that trust the one before, believe a controller with a
/// certificate of it. Names are compared byte by byte, as verifiers do.
fn try_out(
    (before, before_root): (&RootCa, &X509Certificate<'_>),
    (new, new_root): (&RootCa, &X509Certificate<'_>),
    cross_signed_pem: &str,
    now: OffsetDateTime,
) -> Result<(), AuthorityError> {
    let pair = key_and_request()?;
    let subject = Subject {
        cluster: ClusterId::from_u128(1),
        node: NodeId::from_u128(1),
        role: NodeRole::Controller,
        as_of: 0,
    };
    let leaf_pem = issue(new, &pair.request_pem, subject, TRIAL_VALIDITY, now)
        .map_err(|_| AuthorityError::Given("no certificate can be made with it"))?;
    let (leaf, cross_signed) = (only_certificate(&leaf_pem)?, only_certificate(cross_signed_pem)?);
    let (leaf, cross_signed) = (parse(&leaf)?, parse(&cross_signed)?);
    let name = new_root.subject().as_raw();
    if leaf.issuer().as_raw() != name || cross_signed.subject().as_raw() != name {
        return Err(AuthorityError::Given(
            "the certificate's subject cannot be written again byte by byte; use a simpler one",
        ));
    }
    if cross_signed.issuer().as_raw() != before_root.subject().as_raw() {
        return Err(AuthorityError::Before(
            "its subject cannot be written again byte by byte",
        ));
    }
    let chain = format!("{leaf_pem}{cross_signed_pem}");
    verify_controller(&new.certificate_pem, &chain, now.into())
        .map_err(|_| AuthorityError::Given("nodes would not believe the certificates that it signs"))?;
    verify_controller(&before.certificate_pem, &chain, now.into())
        .map_err(|_| AuthorityError::Before("nodes that trust it would not believe the other one"))
}

/// The subject, in the same encoding: verifiers compare names byte by byte.
fn subject_of(certificate: &X509Certificate<'_>) -> Result<DistinguishedName, AuthorityError> {
    let strange =
        || AuthorityError::Given("the certificate's subject has a kind of text that is not supported");
    let mut name = DistinguishedName::new();
    for attribute in certificate.subject().iter_attributes() {
        let oid: Vec<u64> = attribute.attr_type().iter().ok_or_else(strange)?.collect();
        let text = attribute.as_str().map_err(|_| strange())?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into()?),
            _ => return Err(strange()),
        };
        name.push(DnType::CustomDnType(oid), value);
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
